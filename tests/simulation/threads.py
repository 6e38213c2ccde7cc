"""What stands for `threading`, `time` and `concurrent.futures` in a simulated world."""

import threading as real
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from tests.simulation.clockwork import Clockwork, Task


class Threads:
    """`threading`, as far as the box uses it."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock

    def Lock(self) -> "Lock":  # noqa: N802
        return Lock(self._clock)

    def RLock(self) -> "RLock":  # noqa: N802
        return RLock(self._clock)

    def Condition(self, lock: Any = None) -> "Condition":  # noqa: N802
        return Condition(self._clock, lock)

    def Event(self) -> "Event":  # noqa: N802
        return Event(self._clock)

    def BoundedSemaphore(self, value: int = 1) -> "Semaphore":  # noqa: N802
        return Semaphore(self._clock, value)

    Semaphore = BoundedSemaphore

    def Thread(  # noqa: N802
        self, *, target: Callable[..., object], args: Any = (), name: str = "", daemon: bool = False
    ) -> "ThreadOfTask":
        return ThreadOfTask(self, self._clock, target, args, name)

    def current_thread(self) -> "ThreadOfTask":
        task = self._clock.task
        thread = getattr(task, "thread", None)
        if thread is None:
            thread = task.thread = ThreadOfTask(self, self._clock, lambda: None, (), task.name)  # type: ignore[attr-defined]
        return thread

    def get_ident(self) -> int:
        return id(self._clock.task)

    local = real.local
    ExceptHookArgs = real.ExceptHookArgs


class ThreadOfTask:
    """One task, as a thread."""

    def __init__(
        self, threads: Threads, clock: Clockwork, target: Callable[..., object], args: tuple[Any, ...], name: str
    ) -> None:
        self.name = name
        self.daemon = True
        self._threads = threads
        self._clock = clock
        self._target = target
        self._args = args
        self._done = Event(clock)
        self._started = False

    def start(self) -> None:
        if self._clock.task.process.starved:
            raise RuntimeError("can't start new thread")
        self._started = True
        task = self._clock.spawn(self._clock.task.process, lambda: self._target(*self._args), self.name)
        task.thread = self  # type: ignore[attr-defined]
        task.ended.append(self._done.set)

    def is_alive(self) -> bool:
        return self._started and not self._done.is_set()

    def join(self, timeout: float | None = None) -> None:
        self._done.wait(timeout)


class Waiters:
    """Tasks that wait for one thing, first come first served."""

    def __init__(self, clock: Clockwork) -> None:
        self.clock = clock
        self.waiting: deque[tuple[Task, int]] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        task = self.clock.task
        entry = (task, task.waits + 1)
        self.waiting.append(entry)
        woken = bool(self.clock.wait(timeout))
        if not woken and entry in self.waiting:
            self.waiting.remove(entry)
        return woken

    def wake(self, count: int | None = None) -> None:
        number = len(self.waiting) if count is None else count
        while number and self.waiting:
            task, waits = self.waiting.popleft()
            if task.waits == waits and task.process.alive:
                self.clock.wake(task, waits)
                number -= 1


class Lock:
    """`threading.Lock`."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self.owner: Any = None
        self._waiters = Waiters(clock)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._clock.dead:
            return True
        self._clock.yield_now()
        while self.owner is not None and self.owner.process.alive:
            if not blocking:
                return False
            if not self._waiters.wait(None if timeout < 0 else timeout) and timeout >= 0:
                return False
        self.owner = self._clock.task
        return True

    def release(self) -> None:
        self.owner = None
        self._waiters.wake(1)

    def locked(self) -> bool:
        return self.owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock:
    """`threading.RLock`."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self.lock = Lock(clock)
        self.depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._clock.dead:
            return True
        if self.lock.owner is self._clock.task:
            self.depth += 1
            return True
        if not self.lock.acquire(blocking, timeout):
            return False
        self.depth = 1
        return True

    def release(self) -> None:
        self.depth -= 1
        if not self.depth:
            self.lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    """`threading.Condition` over an RLock."""

    def __init__(self, clock: Clockwork, lock: Any = None) -> None:
        self._lock = RLock(clock) if lock is None else lock
        self._waiters = Waiters(clock)
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def wait(self, timeout: float | None = None) -> bool:
        depth, self._lock.depth = self._lock.depth, 0
        self._lock.lock.release()
        try:
            return self._waiters.wait(timeout)
        finally:
            self._lock.lock.acquire()
            self._lock.depth = depth

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        clock = self._waiters.clock
        end = None if timeout is None else clock.time() + timeout
        while not (found := predicate()):
            left = None if end is None else end - clock.time()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return found

    def notify(self, n: int = 1) -> None:
        self._waiters.wake(n)

    def notify_all(self) -> None:
        self._waiters.wake()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Event:
    """`threading.Event`."""

    def __init__(self, clock: Clockwork) -> None:
        self._set = False
        self._waiters = Waiters(clock)

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._waiters.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._waiters.wait(timeout)
        return self._set


class Semaphore:
    """`threading.BoundedSemaphore`."""

    def __init__(self, clock: Clockwork, value: int) -> None:
        self._value = value
        self._waiters = Waiters(clock)

    def acquire(self, blocking: bool = True) -> bool:
        while not self._value:
            if not blocking:
                return False
            self._waiters.wait()
        self._value -= 1
        return True

    def release(self) -> None:
        self._value += 1
        self._waiters.wake(1)


class Time:
    """`time`: seconds of the world, as one process sees them."""

    def __init__(self, clock: Clockwork) -> None:
        self.monotonic = self.perf_counter = self.time = clock.time
        self.sleep = clock.sleep


class Future:
    """`concurrent.futures.Future`."""

    def __init__(self, clock: Clockwork) -> None:
        self.clock = clock
        self.over = Event(clock)
        self._value: Any = None
        self._error: BaseException | None = None

    def set_result(self, value: Any) -> None:
        self._value = value
        self.over.set()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self.over.set()

    def result(self) -> Any:
        self.over.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Executor:
    """`ThreadPoolExecutor` that starts a task for every call."""

    def __init__(self, clock: Clockwork) -> None:
        self._clock = clock
        self._ends: list[Event] = []

    def submit(self, call: Callable[..., Any], *args: Any) -> None:
        end = Event(self._clock)
        self._ends.append(end)
        task = self._clock.spawn(self._clock.task.process, lambda: call(*args), "executor")
        task.ended.append(end.set)

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        for end in self._ends if wait else ():
            end.wait()


def wait(futures: Iterable[Future], timeout: float | None = None) -> None:
    """`concurrent.futures.wait`."""
    for future in futures:
        if not future.clock.dead:
            future.over.wait(timeout)
