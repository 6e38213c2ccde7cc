"""Channels: what goes in comes out, in order, over every transport; both ends wait, and for a time only."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modum.box import Box, Server
from modum.errors import DeadlineError, PoolFullError, ProtocolError
from modum.pipeline import Reader, Writer
from tests.box.conftest import AVAILABLE


@pytest.fixture(params=[(transport, count) for transport in AVAILABLE for count in (1, 2)], ids=str)
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Box, Box]]:
    """Two clients of one box, of one server and of two."""
    transport, count = request.param
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(memory=1 << 26, grace=0.2)) for _ in range(count)]
        addresses = [server.address for server in servers]
        boxes = [stack.enter_context(Box.connect(addresses, transport=transport, timeout=10)) for _ in range(2)]
        yield boxes[0], boxes[1]


def test_arrays_of_every_kind_arrive_in_order_and_as_they_were(ends: tuple[Box, Box]) -> None:
    random = np.random.default_rng(0)
    sent: list[list[np.ndarray[Any, Any]]] = [
        [np.array([[1.5, -2], [np.nan, np.inf]], np.float32), np.arange(3), np.array(True)],
        [],
        [np.zeros((0, 4), np.int32), np.array([1, 2, 3], np.uint8), np.array(7.25)],
        [random.standard_normal((700, 300)).astype(np.float16), np.asfortranarray(random.standard_normal((4, 5)))],
        [random.standard_normal(33).astype(ml_dtypes.bfloat16)],
        [random.standard_normal(3_000_000).astype(np.float32)],  # over the chunks, and over the stripes of two servers
        *([np.full(1000 + number % 3, number)] for number in range(20)),
    ]
    writer, reader = Writer(ends[0], "channel", slots=2), Reader(ends[1], "channel")

    def send() -> None:
        for number, arrays in enumerate(sent):
            writer.send({"number": number, "text": "Grüße"}, arrays)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        for number, arrays in enumerate(sent):
            message = reader.receive()
            assert message.note == {"number": number, "text": "Grüße"}
            assert [array.dtype for array in message.arrays] == [array.dtype for array in arrays]
            assert [array.shape for array in message.arrays] == [array.shape for array in arrays]
            for here, there in zip(message.arrays, arrays, strict=True):
                assert here.tobytes() == there.tobytes()
        sending.result()
    writer.drain()
    assert writer.count == reader.count == len(sent)
    assert writer.nbytes == reader.nbytes
    reader.close()
    writer.close()
    assert ends[0].list() == []


def test_the_writer_waits_for_a_free_slot_and_a_larger_message_for_all(ends: tuple[Box, Box]) -> None:
    writer, reader = Writer(ends[0], "channel", slots=3), Reader(ends[1], "channel")
    written = ends[1].counter("channel/written")
    small, large = np.zeros(10), np.zeros(1000)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            writer.send({}, [small])
        sending = [pool.submit(writer.send, {}, [array]) for array in (small, large)]
        with pytest.raises(DeadlineError):
            written.wait(4, 0.05)
        reader.receive()
        sending[0].result(10)
        with pytest.raises(DeadlineError):
            written.wait(5, 0.05)
        sizes = [reader.receive().arrays[0].size for _ in range(4)]
        sending[1].result(10)
    assert sizes == [10, 10, 10, 1000]
    reader.close()
    writer.close()


def test_waiting_ends_with_its_deadline(ends: tuple[Box, Box]) -> None:
    reader = Reader(ends[1], "channel", wait=lambda counter, at_least: counter.wait(at_least, 0.05))
    with pytest.raises(DeadlineError, match="'channel/written': it is 0, not 1"):
        reader.receive()


def test_what_cannot_be_sent_is_refused_and_the_next_message_goes(connect: Callable[[], Box]) -> None:
    writer, reader = Writer(connect(), "channel", slots=2), Reader(connect(), "channel")
    with pytest.raises(ValueError, match="array of Python objects"):
        writer.send({}, [np.array([object()])])
    with pytest.raises(PoolFullError):
        writer.send({}, [np.zeros(1 << 25)])
    writer.send({"number": 1}, [np.ones(3)])
    assert reader.receive().note == {"number": 1}
    reader.close()
    writer.close()


def test_a_ring_that_holds_something_else_is_refused(connect: Callable[[], Box]) -> None:
    box = connect()
    box.create("channel", (2, 16), "int64").write(np.full(32, 1 << 40))
    box.counter("channel/written").add(1)
    reader = Reader(connect(), "channel")
    with pytest.raises(ProtocolError, match="a message of 1099511627776 words in a slot of 16"):
        reader.receive()
    box.open("channel").write(np.full(32, 16))
    with pytest.raises(ProtocolError, match="message 0 cannot be read"):
        reader.receive()
    reader.close()
