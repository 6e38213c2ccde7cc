"""Virtual time, and tasks that take turns in it: one thread, one seed, one order of events.

Code that waits runs here as it is, in greenlets. A task runs until it waits; the next one is whoever is due first, with
a small random delay, so that other seeds see other orders. A task belongs to a process, which can be stopped, and can
die between two of its waits without a word.
"""

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet

TICK = 1e-6
"""Seconds of a tick, in which all time is counted."""
_JITTER = 20
"""Ticks by which a task that may go on is late, at most."""


class Gone(BaseException):
    """Raised in a task whose process is dead, or whose world has ended, when it would wait."""


class Process:
    """Tasks that live and die together.

    Args:
        name: for the log.
        host: name of the machine it runs on.
    """

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.host = host
        self.alive = True
        self.stopped = False
        self.starved = False
        """Whether no thread can be started in it."""
        self.locks: dict[Any, Callable[[], None]] = {}
        """Locks on memory that it has taken, and how its kernel drops them when it dies."""
        self.died: list[Callable[[], None]] = []
        """Called when the process dies, as its kernel would do."""
        self.late: list[tuple[Task, int, Any]] = []
        """What happened to its tasks while it was stopped."""

    def kill(self) -> None:
        """End it, without a word to its tasks."""
        if self.alive:
            self.alive = False
            for drop in self.locks.values():
                drop()
            for act in self.died:
                act()


class Task:
    """One thread of a process."""

    def __init__(self, process: Process, work: Callable[[], object], name: str, hub: greenlet) -> None:
        self.process = process
        self.name = name
        self.waits = 0
        """How often it has waited: an event of an earlier wait is void."""
        self.error: BaseException | None = None
        self.ended: list[Callable[[], None]] = []
        self.greenlet = greenlet(self._run, hub)  # else its end would wake whoever started it
        self._work = work
        self.greenlet.task = self  # type: ignore[attr-defined]

    def _run(self, _: Any = None) -> None:
        try:
            self._work()
        except Gone:
            pass
        except BaseException as error:  # noqa: BLE001 - looked at by the world
            self.error = error
        finally:
            for act in self.ended:
                act()


class Clockwork:
    """Time, and everything that is due.

    Args:
        seed: of all random choices.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - of a game
        self.pauses = self.random.choice([0.0, 0.0, 0.01, 0.05])
        """How often a thread has to wait long for a processor."""
        self.now = 0
        self.events = 0
        self.closed = False
        self.failed: list[Task] = []
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._tasks: list[Task] = []
        self._hub = getcurrent()

    # ---- for the world

    def at(self, delay: float, act: Callable[[], None]) -> None:
        """Call `act` after `delay` seconds."""
        heapq.heappush(self._due, (self.now + max(0, round(delay / TICK)), next(self._order), act))

    def spawn(self, process: Process, work: Callable[[], object], name: str) -> Task:
        """Start a task."""
        task = Task(process, work, name, self._hub)
        self._tasks.append(task)
        self.wake(task, 0)
        return task

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time go on for so long, or until something is true; return whether it is."""
        end = self.now + round(seconds / TICK)
        while not until():
            if not self._due or self._due[0][0] > end:
                self.now = max(self.now, end)
                return until()
            at, _, act = heapq.heappop(self._due)
            self.now = max(self.now, at)
            self.events += 1
            act()
        return True

    def resume(self, process: Process) -> None:
        """Let a stopped process go on."""
        process.stopped = False
        late, process.late = process.late, []
        for task, waits, value in late:
            self.at(self._jitter(), lambda task=task, waits=waits, value=value: self._switch(task, waits, value))  # type: ignore[misc]

    def close(self) -> None:
        """End the world: tasks that are left end where they wait."""
        self.closed = True
        self._due.clear()
        for task in self._tasks:
            if task.greenlet:  # it stands still, and what it refers to could never be collected
                task.greenlet.throw(Gone)
        self._tasks.clear()

    # ---- for tasks

    @property
    def dead(self) -> bool:
        """Whether the task that runs now does nothing but clean up: its process is dead, or the world has ended."""
        if self.closed:
            return True
        found: Task = getcurrent().task  # type: ignore[attr-defined]
        return not found.process.alive

    @property
    def task(self) -> Task:
        """The task that runs now."""
        if self.closed:
            raise Gone
        found: Task = getcurrent().task  # type: ignore[attr-defined]
        if not found.process.alive:
            raise Gone
        return found

    def time(self) -> float:
        """Seconds; it goes on by a tick whenever it is asked for, so that nobody can look without an end."""
        self.now += 1
        return self.now * TICK

    def wait(self, timeout: float | None = None) -> Any:
        """Stand still until `wake`, and return its value, or None after `timeout` seconds."""
        task = self.task
        task.waits += 1
        if timeout is not None:
            self.wake(task, task.waits, None, max(0.0, timeout))
        value = self._hub.switch()
        if self.closed or not task.process.alive:
            raise Gone
        return value

    def wake(self, task: Task, waits: int, value: Any = True, delay: float | None = None) -> None:
        """Let a task go on if it still is in this wait."""
        late = self._jitter() if delay is None else delay
        self.at(late, lambda: self._switch(task, waits, value))

    def sleep(self, seconds: float) -> None:
        """Stand still."""
        self.wait(seconds)

    def yield_now(self) -> None:
        """Give others a turn, now and then; rarely a long one, as a busy machine does."""
        chance = self.random.random()
        if chance < self.pauses:
            self.wait(self.random.choice([0.001, 0.02, 0.3, 3.0]))
        elif chance < 0.1:
            self.wait(self._jitter())

    def _jitter(self) -> float:
        return self.random.randrange(1, _JITTER) * TICK

    def _switch(self, task: Task, waits: int, value: Any) -> None:
        if task.waits != waits or task.greenlet.dead or not task.process.alive:
            return
        if task.process.stopped:
            task.process.late.append((task, waits, value))
            return
        task.waits += 1
        task.greenlet.switch(value)
        if task.error is not None:
            self.failed.append(task)
