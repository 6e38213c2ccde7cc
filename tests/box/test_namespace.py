"""Clients in different namespaces of one box do not meet; one without a namespace sees all of them."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from modum.box import Box, Server
from modum.errors import BufferNotFoundError


@pytest.fixture
def boxes(server: Server) -> Iterator[tuple[Box, Box, Box]]:
    """Clients in the namespaces "a" and "b", and one in none."""
    with ExitStack() as stack:
        a, b, whole = (
            stack.enter_context(Box.connect(server.address, transport="tcp", namespace=name)) for name in ("a", "b", "")
        )
        yield a, b, whole


def test_buffers_of_one_name_are_different_buffers(boxes: tuple[Box, Box, Box]) -> None:
    a, b, whole = boxes
    for box, value in ((a, 1.0), (b, 2.0)):
        box.create("model", 1).write([value])
        assert [info.name for info in box.list()] == ["model"]
    assert [info.name for info in whole.list()] == ["a/model", "b/model"]
    assert whole.open("b/model").read().tolist() == [2.0]
    a.delete("model")
    with pytest.raises(BufferNotFoundError):
        a.open("model")
    assert [info.name for info in b.list()] == ["model"]


def test_counters_queues_and_leases_are_apart_too(boxes: tuple[Box, Box, Box]) -> None:
    a, b, whole = boxes
    a.counter("steps").add(3)
    assert (a.counter("steps").value, b.counter("steps").value, whole.counter("a/steps").value) == (3, 0, 3)
    assert (a.queue("work", 2).take(), b.queue("work", 5).take()) == (0, 0)
    with a.lock("model/group/x"), b.lock("model/group/x", timeout=1):
        assert [lease.name for lease in a.leases("model/")] == ["model/group/x"]
        assert [lease.name for lease in whole.leases()] == ["a/model/group/x", "b/model/group/x"]


def test_a_name_must_be_more_than_its_namespace(boxes: tuple[Box, Box, Box]) -> None:
    with pytest.raises(ValueError, match="a name has 1 to 255 bytes"):
        boxes[0].create("", 1)
