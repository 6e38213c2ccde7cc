"""Small shared values through the box, over every transport, and buffers that are opened or made."""

import threading
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from tests.box.cutting import Cut, CuttingProxy
from tests.box.parties import raw_transport

from modum.box import Box, Buffer, Server
from modum.box.protocol.layout import home_of
from modum.box.protocol.limits import MAX_MESSAGE, MAX_VALUE
from modum.box.protocol.messages import Create, Look, SegmentInfo
from modum.errors import BufferNotFoundError, DeadlineError, MismatchError


def at_once(box: Box, count: int, act: Callable[[Box, int], object]) -> list[Any]:
    """What `act` returned for each of several clients, which all call it at one time."""
    start = threading.Barrier(count)
    answers: dict[int, Any] = {}

    def work(number: int) -> None:
        with Box.connect(box.servers, transport=box.transports[0], timeout=30) as mine:
            start.wait()
            answers[number] = act(mine, number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(count)]


@pytest.mark.parametrize(
    "value",
    [True, False, 0, -(2**63), 2**64 - 1, 1.5, "", "모둠", b"", b"\0\xff", [], [1, [2.0, "x"]], {"a": {"b": [None]}}],
    ids=repr,
)
def test_what_is_set_is_got_with_its_type(box: Box, value: Any) -> None:
    assert box.value("v").get() is None
    box.value("v").set(value)
    with Box.connect(box.servers, transport=box.transports[0]) as other:
        seen = other.value("v").get()
    assert (seen, type(seen)) == (value, type(value))


def test_a_value_stays_until_it_is_deleted(box: Box) -> None:
    with Box.connect(box.servers, transport=box.transports[0]) as other:
        other.value("v").set(1)
    value = box.value("v")
    value.set([2])
    assert value.get() == [2]
    value.delete()
    assert value.get() is None
    value.delete()
    assert value.set_default(3) == 3


def test_a_value_is_waited_for_by_any_number(box: Box) -> None:
    def wait_or_set(mine: Box, number: int) -> Any:
        return mine.value("go").set("now") if number == 2 else mine.value("go").wait()

    assert at_once(box, 3, wait_or_set) == ["now", "now", None]
    assert box.value("go").wait(timeout=0) == "now"


def test_a_wait_that_nobody_ends_names_the_value_and_its_server(box: Box) -> None:
    with pytest.raises(DeadlineError, match=r"wait for value 'v': nobody has set it after 0.01 s \(memory server 127"):
        box.value("v").wait(timeout=0.01)


def test_one_of_many_sets_the_default_and_all_see_it(box: Box) -> None:
    answers = at_once(box, 4, lambda mine, number: mine.value("first").set_default(number))
    assert set(answers) == {box.value("first").get()}


def test_compare_and_set_counts_every_increment_once(box: Box) -> None:
    def increment(mine: Box, number: int) -> None:
        value = mine.value("n")
        for _ in range(5):
            while not value.compare_and_set(now := value.get(), (now or 0) + 1):
                pass

    at_once(box, 3, increment)
    assert box.value("n").get() == 15


def test_compare_and_set_takes_none_for_nothing_there(box: Box) -> None:
    value = box.value("v")
    assert not value.compare_and_set("a", "b")
    assert value.compare_and_set(None, "a")
    assert not value.compare_and_set(None, "b")
    assert value.get() == "a"
    assert value.compare_and_set("a", None)
    assert value.get() is None


def test_values_are_equal_if_their_types_and_contents_are(box: Box) -> None:
    value = box.value("v")
    value.set({"b": 1, "a": [1, 2]})
    assert not value.compare_and_set({"a": [1, 2], "b": 1.0}, "x")
    assert not value.compare_and_set({"a": [1, 2], "b": True}, "x")
    assert value.compare_and_set({"a": (1, 2), "b": 1}, "x")


def test_what_cannot_be_a_value_is_refused_and_changes_nothing(box: Box) -> None:
    value = box.value("v")
    value.set("kept")
    with pytest.raises(ValueError, match=r"value 'v' has \d+ bytes, the limit is \d+: larger things belong into a buf"):
        value.set(b"x" * MAX_VALUE)
    with pytest.raises(ValueError, match=rf"request ValuePut has \d+ bytes, and {MAX_MESSAGE} are the most"):
        value.set(b"x" * MAX_MESSAGE)
    with pytest.raises(ValueError, match=r"value 'v' cannot be set to None.*delete\(\)"):
        value.set(None)
    with pytest.raises(ValueError, match="value 'v' cannot be set to None"):
        value.set_default(None)
    # msgspec would make a list, or a text, of some of them
    for thing in (object(), {1, 2}, frozenset([1]), UUID(int=1), Decimal(1), date(2000, 1, 1), np.float32(1), Look()):
        for holder in (thing, [1, (thing,)], {"a": {"b": thing}}):
            with pytest.raises(TypeError, match=f"no type for a value of {type(thing).__name__}"):
                value.set(holder)
            with pytest.raises(TypeError, match="no type for"):
                value.compare_and_set("kept", holder)
        with pytest.raises(TypeError, match=f"no type for a value of {type(thing).__name__}"):
            box.create("b", 1, meta={"a": [thing]})
    assert value.get() == "kept"
    assert box.list() == []
    value.set(b"x" * (MAX_VALUE - 8))


def test_a_box_with_a_value_is_not_empty(server: Server) -> None:
    """A server forgets the box that it belongs to when it is empty, and takes the next list of servers."""
    with Server() as second, Box.connect(server.address, transport="tcp") as box:
        box.value("v").set(1)
        both = [server.address, second.address]
        with pytest.raises(MismatchError, match="number 0 of the box"):
            Box.connect(both, transport="tcp")
        box.value("v").delete()
        box.close()
        with Box.connect(both, transport="tcp") as larger:
            assert larger.value("v").get() is None


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("frame", range(1, 5))
def test_a_value_changes_once_when_a_connection_is_cut(patient_server: Server, direction: str, frame: int) -> None:
    name = f"{direction}{frame}"
    with (
        CuttingProxy(patient_server.address, [Cut(direction, frame, 1000)]) as proxy,
        Box.connect(proxy.address, transport="tcp", timeout=10) as box,
    ):
        value = box.value(name)
        assert [value.compare_and_set(*change) for change in ((None, 1), (1, 2), (2, None))] == [True] * 3
        assert value.set_default("x") == "x"
        assert not proxy.left


def test_namespaces_have_their_own_values(server: Server) -> None:
    with (
        Box.connect(server.address, namespace="a") as a,
        Box.connect(server.address, namespace="b") as b,
        Box.connect(server.address) as whole,
    ):
        a.value("v").set(1)
        assert (a.value("v").get(), b.value("v").get(), whole.value("a/v").get()) == (1, None, 1)


def test_a_buffer_is_made_by_one_of_many_and_opened_by_the_others(box: Box) -> None:
    def add(mine: Box, number: int) -> dict[str, Any]:
        buffer = mine.open_or_create("b", (2, 3), meta={"by": number})
        buffer.add([[1, 1, 1]] * 2)
        return buffer.meta

    metas = at_once(box, 4, add)
    buffer = box.open_or_create("b", [2, 3])
    assert all(meta == buffer.meta for meta in metas)
    assert buffer.read().tolist() == [[4, 4, 4]] * 2


def test_a_buffer_with_another_shape_or_dtype_is_refused_with_both(box: Box) -> None:
    made = box.open_or_create("b", 6, "int64")
    for shape, dtype in ((5, "int64"), ((2, 3), "int64"), (6, "float32")):
        with pytest.raises(MismatchError, match=rf"buffer 'b' is there with shape \(6,\) of int64.* of {dtype}"):
            box.open_or_create("b", shape, dtype)
    assert isinstance(made, Buffer)
    box.delete("b")
    with pytest.raises(BufferNotFoundError):
        box.open("b")


def test_a_buffer_whose_maker_died_halfway_is_finished_by_who_opens_it(server: Server) -> None:
    with Server() as second, Box.connect([server.address, second.address], transport="tcp", timeout=5) as box:
        home = home_of("b", 2)
        with raw_transport(box.servers[home]) as transport:  # as if it had died before it came to the other server
            transport.call(Create("b", [4], "float32", 16, 16, b"\x80"), SegmentInfo, 5)
        box.open("b").write(np.ones(4, np.float32))
        assert box.open("b").read().tolist() == [1] * 4
        box.delete("b")
        assert box.list() == []
