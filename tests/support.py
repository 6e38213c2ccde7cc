"""What the tests of the update rules share: the published equations, weights in NumPy, a clock that tests move."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modum.averaging import Averaging, BackgroundTransfer, Membership, join
from modum.box import Box, Buffer
from modum.errors import ConnectionLostError
from modum.groups import Alone
from modum.parameters import ArrayVector, Vector
from modum.rules import Elastic, Part, UpdateRule
from modum.waiting import poll

Floats = NDArray[np.float32]


def elastic_reference(W: Floats, G: Floats, a: float) -> None:
    """One exchange of EASGD, in place: Zhang et al. (2015), algorithm 1, steps a and b."""
    d = np.float32(a) * (W - G)
    W -= d
    G += d


def gradient(W: Floats, worker: int, step: int) -> Floats:
    """The gradient of a quadratic whose minimum is the worker's own and moves: workers disagree, always."""
    target = np.random.default_rng([worker, step]).standard_normal(W.size).astype(np.float32)
    return W - target


def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until the condition holds."""
    poll(condition, timeout=timeout, every=0.001, error=lambda: AssertionError(f"still waiting after {timeout} s"))


def until_renewed(box: Box, lease: str, times: int) -> None:
    """Wait until somebody has renewed a lease so many times, which `box` sees by the seconds it lasts still."""
    before = float("inf")

    def renewed() -> bool:
        nonlocal before
        (now,) = (each.seconds for each in box.leases(lease))
        before, last = now, before
        return now > last

    for _ in range(times):
        until(renewed, timeout=60)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, kw_only=True)
class Gated(Elastic):
    """Elastic averaging whose transfers go when the test lets them; each takes ``takes`` seconds of ``clock``."""

    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    clock: Clock = field(default_factory=Clock)
    takes: float = 0.0

    def settings(self) -> dict[str, Any]:
        return {"rule": "gated"}

    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return GatedPart(self, Elastic.part(self, vector, buffer))


class GatedPart(Part):
    """Its transfers are those of another part, at the gate."""

    def __init__(self, rule: Gated, inner: Part) -> None:
        super().__init__(inner.vector, inner.buffer)
        self._rule = rule
        self._inner = inner

    def transfer(self, groups: int, steps: int) -> float:
        assert self._rule.gate.acquire(timeout=10)
        rate = self._inner.transfer(groups, steps)
        self._rule.clock.now += self._rule.takes
        return rate


@dataclass
class Worker:
    """One worker with its averaging; ``step`` is plain gradient descent on `gradient`."""

    number: int
    vector: ArrayVector
    buffer: Buffer
    averaging: Averaging
    membership: Membership
    steps: int = 0

    @property
    def W(self) -> Floats:  # noqa: N802 - the literature's name
        return self.vector.weights

    def step(self, learning_rate: float = 0.1) -> None:
        self.vector.weights -= np.float32(learning_rate) * gradient(self.W, self.number, self.steps)
        self.steps += 1
        self.averaging.step()


def start_worker(
    box: Box,
    rule: UpdateRule,
    weights: Floats,
    number: int = 0,
    clock: Callable[[], float] | None = None,
    statistics: int = 0,
) -> Worker:
    """A worker that has joined ``model``; put it into `working`."""
    vector = ArrayVector(weights, statistics)
    (buffer,) = join(box, "model", [vector], {"settings": rule.settings()}, timeout=10)
    membership = Membership(box, "model", leader=True)
    clock = clock or time.monotonic
    transfer = BackgroundTransfer(membership.count, idle_seconds=1.0, clock=clock)
    averaging = Averaging(rule, [vector], [buffer], Alone(), membership, transfer, clock)
    averaging.pull()
    return Worker(number=number, vector=vector, buffer=buffer, averaging=averaging, membership=membership)


@contextmanager
def working(*workers: Worker) -> Iterator[None]:
    """Closes the workers at the end, those too whose box a test has closed."""
    with ExitStack() as stack:
        for worker in workers:
            stack.callback(worker.buffer.close)
            stack.enter_context(suppress(ConnectionLostError))
            stack.callback(worker.membership.leave)
            stack.callback(worker.averaging.close)
        yield
