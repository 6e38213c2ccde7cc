"""Whatever is raised in the thread that calls: when the call has ended, nothing of the operation is under way."""

import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from modum.box import Box, Server
from modum.box.calls import Calls
from modum.box.protocol.limits import CHUNK
from modum.box.transport import Work
from modum.waiting import Deadline


class Interrupts:
    """Interrupts the main thread as Ctrl-C does, where it waits for others, and waits until its handler has run."""

    def __init__(self) -> None:
        self._came = threading.Semaphore(0)
        self._due = False
        self._last: types.FrameType | None = None

    def __call__(self) -> None:
        """Interrupt once, in a wait that has not been interrupted yet; called in another thread."""
        deadline = Deadline(10)
        while (frame := self._waiting()) is None or frame is self._last:
            assert not deadline.passed, "the main thread does not wait"
        self._last, self._due = frame, True
        main = threading.main_thread().ident
        assert main is not None
        while True:
            signal.pthread_kill(main, signal.SIGINT)
            if self._came.acquire(timeout=0.01):  # a signal just before a thread begins to wait does not wake it
                break

    def handle(self, *_: object) -> None:
        if self._due:
            self._due = False
            self._came.release()
            raise KeyboardInterrupt

    def forget(self) -> None:
        self._last = None

    def _waiting(self) -> types.FrameType | None:
        """Return the innermost frame of the main thread if it waits for calls of others."""
        innermost = frame = sys._current_frames()[threading.main_thread().ident or 0]
        if innermost.f_code is not threading.Condition.wait.__code__:
            return None
        while frame.f_back and frame.f_code not in (Calls.results.__code__, Calls.__exit__.__code__):
            frame = frame.f_back
        return innermost if frame.f_back else None


@pytest.fixture
def interrupt() -> Iterator[Interrupts]:
    """Something to call in another thread than the main one."""
    interrupts = Interrupts()
    before = signal.signal(signal.SIGINT, interrupts.handle)
    yield interrupts
    interrupts.forget()
    signal.signal(signal.SIGINT, before)


@contextmanager
def is_unlocked_afterwards(buffer: Any) -> Iterator[None]:
    """Check that another thread can lock the buffer in the end."""
    yield
    free: list[bool] = []

    def lock() -> None:
        with buffer._mutex:
            free.append(True)

    thread = threading.Thread(target=lock)
    thread.start()
    thread.join()
    assert free


def test_an_interrupted_operation_on_several_servers_has_ended_when_it_raises(interrupt: Interrupts) -> None:
    with (
        Server(memory=64 << 20) as one,
        Server(memory=64 << 20) as two,
        Box.connect([one.address, two.address], transport="tcp", timeout=10) as box,
    ):
        buffer = box.create("b", 2 * CHUNK)
        begun: list[int] = []
        ended: list[int] = []
        locked: list[bool] = []

        def held_up(number: int, run: Callable[[Work], None]) -> Callable[[Work], None]:
            def act(work: Work) -> None:
                begun.append(number)
                if number:
                    interrupt()
                    locked.append(not buffer._mutex.acquire(blocking=False))
                    interrupt()
                    locked.append(not buffer._mutex.acquire(blocking=False))
                run(work)
                ended.append(number)

            return act

        for number, transport in enumerate(box._servers.transports):
            transport.run = held_up(number, transport.run)  # type: ignore[method-assign, assignment]
        with is_unlocked_afterwards(buffer), pytest.raises(KeyboardInterrupt):
            buffer.exchange(np.ones(buffer.size, np.float32), 0.5)
        assert sorted(ended) == sorted(begun)
        assert 1 in ended
        assert locked == [True, True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_error_where_helpers_run_kernels_is_raised_when_they_have_ended(
    server: Server, interrupt: Interrupts, error: type[BaseException]
) -> None:
    with Box.connect(server.address, transport="local", threads=2, timeout=10) as box:
        buffer = box.create("b", 64 * CHUNK // 4)
        transport: Any = box._servers.transports[0]
        apply = transport._apply
        begun = threading.Event()
        ended: list[int] = []

        def held_up(*arguments: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                begun.wait()
                raise error
            begun.set()
            interrupt()
            interrupt()
            apply(*arguments)
            ended.append(1)

        transport._apply = held_up
        x = np.ones(buffer.size, np.float32)
        with is_unlocked_afterwards(buffer), pytest.raises((error, KeyboardInterrupt)):
            buffer.exchange(x, 0.5)
        assert ended == [1]
        # what nobody had begun was left
        np.testing.assert_array_equal(x, np.ones(buffer.size, np.float32))


def test_an_error_while_an_operation_is_handed_out_leaves_nothing_under_way(server: Server) -> None:
    with (
        Server(memory=64 << 20) as two,
        Box.connect([server.address, two.address], transport="tcp", timeout=10) as box,
    ):
        fanout: Any = box._servers
        submit = fanout._workers.submit
        begun, may_end = threading.Event(), threading.Event()
        ended: list[int] = []

        def act(number: int, transport: object) -> None:
            begun.set()
            may_end.wait()
            ended.append(number)

        def full(*call: Any) -> Any:
            if begun.is_set():
                threading.Timer(0, may_end.set).start()
                raise MemoryError
            submit(*call)
            begun.wait()

        fanout._workers.submit = full
        with pytest.raises(MemoryError):
            fanout.each(act)
        assert ended == [0]
        del fanout._workers.submit


def test_a_call_that_no_thread_can_be_started_for_is_made_once(server: Server) -> None:
    with (
        Server(memory=64 << 20) as two,
        Box.connect([server.address, two.address], transport="tcp", timeout=10) as box,
    ):
        fanout: Any = box._servers
        submit = fanout._workers.submit
        made: list[int] = []

        def queued_without_a_thread(*call: Any) -> None:
            submit(*call)
            raise RuntimeError("can't start new thread")

        fanout._workers.submit = queued_without_a_thread

        def act(number: int, transport: object) -> int:
            made.append(number)
            return number

        assert fanout.each(act) == [0, 1]
        assert sorted(made) == [0, 1]
        del fanout._workers.submit
