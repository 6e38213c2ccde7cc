"""The first worker makes the shared vectors; one that is stopped meanwhile changes nothing later."""

import signal
import threading
from collections.abc import Callable

import numpy as np
import pytest
from tests.box.processes import client_process, line_of
from tests.support import until_renewed

from modum.averaging import join, sharing
from modum.box import Box, Buffer, Lease
from modum.parameters import ArrayVector

Connect = Callable[[], Box]

SIZE = 300_000  # two chunks
META = {"settings": {"interval": 4}}

MAKER = """
import sys
import numpy as np
from modum.averaging import join, sharing
from modum.box import Box
from modum.parameters import ArrayVector

class Slow(ArrayVector):
    def write(self, buffer):
        print("writing", flush=True)
        sys.stdin.readline()
        super().write(buffer)

sharing.CREATE_SECONDS = 1.0
with Box.connect(sys.argv[1], transport=sys.argv[2]) as box:
    vector = Slow(np.full(300_000, 1, np.float32))
    (buffer,) = join(box, "model", [vector], {"settings": {"interval": 4}}, timeout=1)
    vector.read(buffer)
    print("joined", *np.unique(vector.weights), flush=True)
    sys.stdin.readline()
    buffer.add(np.full(300_000, 5, np.float32))
    print("trained", flush=True)
"""


def vector(value: float) -> ArrayVector:
    return ArrayVector(np.full(SIZE, value, np.float32))


@pytest.mark.parametrize("transport", ["local", "tcp"])
def test_a_maker_that_was_stopped_changes_nothing_that_others_trained_and_takes_it(box: Box, transport: str) -> None:
    with client_process(MAKER, box.servers[0], transport) as maker:
        assert maker.stdin is not None
        assert line_of(maker) == "writing"
        maker.send_signal(signal.SIGSTOP)
        (buffer,) = join(box, "model", [vector(2)], META, timeout=60)
        buffer.add(np.full(SIZE, 8, np.float32))
        maker.send_signal(signal.SIGCONT)
        maker.stdin.write("\n")
        maker.stdin.flush()
        assert line_of(maker) == "joined 10.0"
        assert np.unique(buffer.read()).tolist() == [10.0]
        maker.stdin.write("\n")
        maker.stdin.flush()
        assert line_of(maker) == "trained"
        assert np.unique(buffer.read()).tolist() == [15.0]
        buffer.close()


def test_a_write_that_takes_longer_than_the_lease_keeps_it(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    class Slow(ArrayVector):
        def write(self, buffer: Buffer) -> None:
            writing.set()
            assert go_on.wait(60)
            super().write(buffer)

    monkeypatch.setattr(sharing, "CREATE_SECONDS", 3)
    maker, watcher = connect(), connect()
    slow = Slow(np.full(SIZE, 1, np.float32))
    made: list[Buffer] = []
    thread = threading.Thread(target=lambda: made.extend(join(maker, "model", [slow], META, timeout=60)))
    thread.start()
    try:
        assert writing.wait(60)
        until_renewed(watcher, "model/create", 4)  # a third of its time each
    finally:
        go_on.set()
        thread.join()
    (other,) = join(connect(), "model", [vector(2)], META, timeout=60)
    assert np.unique(other.read()).tolist() == [1.0]
    for buffer in (*made, other):
        buffer.close()


def test_the_vectors_of_a_maker_that_died_between_two_of_them_are_all_made_anew(connect: Connect) -> None:
    left = connect()
    left.create("model/float32", SIZE, meta=META).write(np.full(SIZE, 1, np.float32))
    left.create("model/bfloat16", 3, "bfloat16", meta=META)

    class Half(ArrayVector):
        @property
        def dtype(self) -> str:
            return "bfloat16"

        def write(self, buffer: Buffer) -> None:
            buffer.write(np.full(self.size, 0x4000, np.uint16))

    half = Half(np.zeros(3, np.float32))
    buffers = join(connect(), "model", [vector(2), half], META, timeout=60)
    assert [set(buffer.read().tolist()) for buffer in buffers] == [{2.0}, {0x4000}]
    for buffer in buffers:
        buffer.close()


def test_a_maker_that_is_overtaken_between_its_look_and_its_deletion_deletes_nothing_newer(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, quick = connect(), connect()
    late.create("model/float32", SIZE, meta=META)  # somebody died before it was written
    renew = Lease.renew

    def stopped(lease: Lease) -> None:
        renew(lease)
        monkeypatch.setattr(Lease, "renew", renew)
        quick.delete("model/float32")
        quick.create("model/float32", SIZE, meta=META).write(np.full(SIZE, 1, np.float32))

    monkeypatch.setattr(Lease, "renew", stopped)
    (buffer,) = join(late, "model", [vector(2)], META, timeout=60)
    assert np.unique(buffer.read()).tolist() == [1.0]
    buffer.close()


def test_a_vector_that_is_deleted_while_it_is_written_is_made_again(connect: Connect) -> None:
    class Disturbed(ArrayVector):
        writes = 0

        def write(self, buffer: Buffer) -> None:
            self.writes += 1
            if self.writes == 1:
                connect().delete("model/float32")
            super().write(buffer)
            assert buffer.version == 1

    disturbed = Disturbed(np.full(SIZE, 1, np.float32))
    (buffer,) = join(connect(), "model", [disturbed], META, timeout=60)
    assert disturbed.writes == 2
    assert np.unique(buffer.read()).tolist() == [1.0]
    buffer.close()
