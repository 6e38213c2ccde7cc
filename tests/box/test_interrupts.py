"""Whatever is raised in the thread that calls: when the call has ended, nothing of the operation is under way."""

import signal
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.box.parties import box_of

from modum.box import Box, Buffer, Server
from modum.box.calls import Calls
from modum.box.client.pool import ConnectionPool
from modum.box.memory.apply import apply
from modum.box.protocol.frames import Op
from modum.box.protocol.limits import CHUNK
from modum.box.transport import Transport, Work
from modum.waiting import Deadline


class Interrupts:
    """Interrupts the main thread as Ctrl-C does, where it waits for others, and waits until its handler has run."""

    def __init__(self) -> None:
        self._came = threading.Semaphore(0)
        self._due = False
        self._last: types.FrameType | None = None

    def __call__(self) -> None:
        """Interrupt once, in a wait that has not been interrupted yet; called in another thread."""
        main = threading.main_thread().ident
        assert main is not None
        deadline = Deadline(10)
        self._due = True
        signal.pthread_kill(main, signal.SIGINT)
        while not self._came.acquire(timeout=0.01):  # a signal before a thread begins to wait does not wake it
            assert not deadline.passed, "the main thread does not wait"
            signal.pthread_kill(main, signal.SIGINT)

    def handle(self, _: int, frame: types.FrameType | None) -> None:
        """Take a signal, in the main thread; `frame` is its innermost one."""
        if self._due and frame is not self._last and waits_for_others(frame):
            self._last, self._due = frame, False
            self._came.release()
            raise KeyboardInterrupt

    def forget(self) -> None:
        self._last = None


def waits_for_others(frame: types.FrameType | None) -> bool:
    """Whether the thread whose innermost frame this is waits for calls of others."""
    if frame is None or frame.f_code is not threading.Condition.wait.__code__:
        return False
    while frame is not None and frame.f_code not in (Calls.results.__code__, Calls.__exit__.__code__):
        frame = frame.f_back
    return frame is not None


@pytest.fixture
def interrupt() -> Iterator[Interrupts]:
    """Something to call in another thread than the main one."""
    interrupts = Interrupts()
    before = signal.signal(signal.SIGINT, interrupts.handle)
    yield interrupts
    interrupts.forget()
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_operation_on_several_servers_has_ended_when_it_raises(interrupt: Interrupts) -> None:
    with (
        Server(memory=64 << 20) as one,
        Server(memory=64 << 20) as two,
        box_of([one.address, two.address]) as (box, fanout),
    ):
        buffer = box.create("b", 2 * CHUNK)
        begun: list[int] = []
        ended: list[int] = []
        ended_before_a_read: list[list[int]] = []
        reading = threading.Event()
        reader = threading.Thread(target=buffer.read)

        def held_up(number: int, run: Callable[[Work], None]) -> Callable[[Work], None]:
            def act(work: Work) -> None:
                if work.op is Op.READ:
                    ended_before_a_read.append(sorted(ended))
                    reading.set()
                    run(work)
                    return
                begun.append(number)
                if number:
                    reader.start()
                    interrupt()
                    reading.wait(0.1)  # it would begin now if the buffer were not locked
                    interrupt()
                    reading.wait(0.1)
                run(work)
                ended.append(number)

            return act

        for number, transport in enumerate(fanout.transports):
            transport.run = held_up(number, transport.run)  # type: ignore[method-assign, assignment]
        with pytest.raises(KeyboardInterrupt):
            buffer.exchange(np.ones(buffer.size, np.float32), 0.5)
        reader.join()
        assert sorted(ended) == sorted(begun)
        assert 1 in ended
        assert ended_before_a_read == [sorted(ended)] * 2


def check_another_thread_can_use(buffer: Buffer) -> None:
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(buffer.read()))
    thread.start()
    thread.join()
    assert len(seen) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_error_where_helpers_run_kernels_is_raised_when_they_have_ended(
    server: Server, interrupt: Interrupts, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Box.connect(server.address, transport="local", threads=2, timeout=10) as box:
        buffer = box.create("b", 64 * CHUNK // 4)
        begun = threading.Event()
        ended: list[int] = []

        def held_up(*arguments: Any, **options: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                begun.wait()
                raise error
            begun.set()
            interrupt()
            interrupt()
            apply(*arguments, **options)
            ended.append(1)

        x = np.ones(buffer.size, np.float32)
        with monkeypatch.context() as patch:
            patch.setattr("modum.box.transport.local.apply", held_up)
            with pytest.raises((error, KeyboardInterrupt)):
                buffer.exchange(x, 0.5)
        assert ended == [1]
        check_another_thread_can_use(buffer)
        # what nobody had begun was left
        np.testing.assert_array_equal(x, np.ones(buffer.size, np.float32))


def test_an_error_while_an_operation_is_handed_out_leaves_nothing_under_way(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[int] = []

    class Full(ThreadPoolExecutor):
        """Takes the first call, and no other."""

        def submit(self, *call: Any, **options: Any) -> Future[Any]:
            if begun.is_set():
                threading.Timer(0, may_end.set).start()
                raise MemoryError
            future = super().submit(*call, **options)
            begun.wait()
            return future

    def act(number: int, transport: object) -> None:
        begun.set()
        may_end.wait()
        ended.append(number)

    monkeypatch.setattr("modum.box.fanout.ThreadPoolExecutor", Full)
    with Server(memory=64 << 20) as two, box_of([server.address, two.address]) as (_, fanout):
        with pytest.raises(MemoryError):
            fanout.each(act)
        assert ended == [0]


def test_a_call_that_no_thread_can_be_started_for_is_made_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class WithoutThreads(ThreadPoolExecutor):
        """Takes every call, and says that it has no thread for it."""

        def submit(self, *call: Any, **options: Any) -> Future[Any]:
            super().submit(*call, **options)
            raise RuntimeError("can't start new thread")

    def act(number: int, transport: object) -> int:
        made.append(number)
        return number

    monkeypatch.setattr("modum.box.fanout.ThreadPoolExecutor", WithoutThreads)
    with Server(memory=64 << 20) as two, box_of([server.address, two.address]) as (_, fanout):
        assert fanout.each(act) == [0, 1]
        assert sorted(made) == [0, 1]


@pytest.mark.parametrize("where", [(Transport, "leave"), (Buffer, "close"), (ConnectionPool, "close")], ids=str)
def test_a_client_whose_goodbye_was_interrupted_is_gone_all_the_same(
    server: Server, client: Box, where: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box.connect(server.address, transport=client.transports[0], timeout=10)
    buffers = [box.create(name, 1) for name in "ab"]
    box.lock("l", ttl=600)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            box.close()
    box.close()
    for buffer in buffers:
        with pytest.raises(ValueError, match="was closed here"):
            buffer.read()
    client.lock("l", timeout=10)
    box.close()
