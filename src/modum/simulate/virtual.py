"""A buffer and a transfer in virtual time, which a running rule uses in place of a job's.

Code that waits, such as `modum.averaging.Averaging` and the parts of rules, runs here unchanged, in a greenlet that
pauses while simpy's time goes on.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import greenlet
import numpy as np
import simpy
from numpy.typing import NDArray

from modum.averaging.averaging import Transferred
from modum.box.compression import SECTION, CompressionName, compression_of
from modum.box.kernels import Leave, portable
from modum.groups import Alone

if TYPE_CHECKING:
    from modum.simulate.links import Flow, SharedLink

__all__ = ["VirtualBuffer", "VirtualGroup", "VirtualTransfer", "pause", "running"]

DTYPE = "float32"


def running(work: Callable[[], object]) -> Generator[simpy.Event, object, Any]:
    """Make a process of work that may `pause`; it returns what the work returns."""
    task = greenlet.greenlet(work)
    event = task.switch()
    try:
        while not task.dead:
            yield event
            event = task.switch()
        return event  # the last switch returns what the work does
    finally:
        if not task.dead:
            task.throw()


def pause(event: simpy.Event) -> None:
    """Let virtual time go on until an event occurs; call it only inside `running`."""
    parent = greenlet.getcurrent().parent
    assert parent is not None, "nobody runs this"
    parent.switch(event)


class VirtualGroup(Alone):
    """A group whose members are simulated as one worker.

    Args:
        size: the group's size.
    """

    def __init__(self, size: int) -> None:
        self.size = size


class VirtualBuffer:
    """The shared weights, as one group sees them: the part of `modum.box.Buffer` that rules use.

    Args:
        weights: the shared weights; float32, 1-D.
        nbytes: bytes that the whole buffer stands for.
        incoming: link that additions and exchanges cross.
        outgoing: link that reads cross.
        tail: seconds until a finished flow is acknowledged.
        version: returns how many operations have changed the shared weights.
        combined: called whenever the shared weights have changed.

    Attributes:
        version: operations that have changed the shared weights, from the argument `version`.
        crossing: the flow that crosses a link now.
        instant: whether operations take no time.
    """

    def __init__(
        self,
        weights: NDArray[np.float32],
        nbytes: int,
        incoming: "SharedLink",
        outgoing: "SharedLink",
        tail: float,
        version: Callable[[], int],
        combined: Callable[[], None],
    ) -> None:
        self._weights = weights
        self._scale = nbytes / weights.size
        self._incoming = incoming
        self._outgoing = outgoing
        self._tail = tail
        self._version = version
        self._combined = combined
        self.crossing: Flow | None = None
        self.instant = False

    @property
    def version(self) -> int:
        """How many operations have changed the shared weights."""
        return self._version()

    def read(self, out: NDArray[np.float32], *, offset: int = 0) -> NDArray[np.float32]:
        """Fill `out` with shared weights."""
        self._cross(self._outgoing, out.size)
        out[:] = self._weights[offset : offset + out.size]
        self._acknowledge()
        return out

    def add(self, x: NDArray[np.float32], scale: float = 1.0, *, offset: int = 0) -> None:
        """Add `scale * x`."""
        sent = x.copy()
        self._cross(self._incoming, x.size)
        portable.add(DTYPE, self._weights[offset : offset + x.size], sent, np.float32(scale))
        self._combined()
        self._acknowledge()

    def exchange(
        self,
        x: NDArray[np.float32],
        moving_rate: float,
        *,
        offset: int = 0,
        leave: Leave = "moved",
        compression: CompressionName = "none",
    ) -> None:
        """Move `x` and the shared weights toward each other; see `modum.box.Buffer.exchange`."""
        shared, rate = self._weights[offset : offset + x.size], np.float32(moving_rate)
        if chosen := compression_of(compression):
            # a few weights stand for many: what they would take as so many themselves is not what counts
            self._cross(self._incoming, x.size * chosen.sent(SECTION) / (SECTION * x.itemsize))
            chosen.both_sides(shared, x, rate, leave)
        else:
            self._cross(self._incoming, x.size)
            kernel = {"moved": portable.exchange, "difference": portable.difference, "present": portable.present}[leave]
            kernel(DTYPE, shared, x, rate)
        self._combined()
        self._acknowledge()

    def _cross(self, link: "SharedLink", elements: float) -> None:
        if not self.instant:
            self.crossing = link.transfer(elements * self._scale)
            pause(self.crossing)
            self.crossing = None

    def _acknowledge(self) -> None:
        if not self.instant:
            pause(self._incoming.environment.timeout(self._tail))


class VirtualTransfer:
    """Carries out one transfer at a time in virtual time: `modum.averaging.averaging.Transfer`.

    Args:
        environment: simpy's environment, whose time passes.
        boundary: seconds that the worker spends on the snapshot before the transfer begins.
        until: waits for an event, as the group does.
        submitted: called when a transfer is submitted.
        finished: called when a transfer is over.
        collected: called with the seconds of a transfer that is collected.

    Attributes:
        count: transfers collected.
        seconds: time that they took.
        waited: how much of that time was spent waiting.
        began: when the last transfer begins to cross the network.
    """

    def __init__(
        self,
        environment: simpy.Environment,
        boundary: float,
        *,
        until: Callable[[simpy.Event], None],
        submitted: Callable[[], None],
        finished: Callable[[], None],
        collected: Callable[[float], None],
    ) -> None:
        self._environment = environment
        self._boundary = boundary
        self._until = until
        self._submitted = submitted
        self._finished = finished
        self._collected = collected
        self._process: simpy.Process | None = None
        self._transferred = Transferred(0.0, ())
        self.count = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.began = 0.0

    @property
    def pending(self) -> bool:
        """Whether a transfer was submitted and not collected."""
        return self._process is not None

    @property
    def ready(self) -> bool:
        """Whether the pending transfer is over."""
        return self._process is not None and not self._process.is_alive

    def submit(self, transfer: Callable[[], Sequence[float]]) -> None:
        """Start a transfer, once the snapshot is taken."""
        self.began = self._environment.now + self._boundary
        self._submitted()
        self._process = self._environment.process(self._carry(transfer))

    def collect(self) -> Transferred | None:
        """Wait for the pending transfer and return what it has left; None where none is pending."""
        if self._process is None:
            return None
        start = self._environment.now
        if self._process.is_alive:
            self._until(self._process)
        self.waited += self._environment.now - max(start, self.began)
        self._process = None
        self.count += 1
        self.seconds += self._transferred.seconds
        self._collected(self._transferred.seconds)
        return self._transferred

    def close(self) -> None:
        """Abort the pending transfer."""
        if self._process is not None and self._process.is_alive:
            self._process.interrupt()
        self._process = None

    def _carry(self, transfer: Callable[[], Sequence[float]]) -> Generator[simpy.Event, Any, None]:
        try:
            yield self._environment.timeout(self._boundary)
            rates = yield from running(transfer)
        except simpy.Interrupt:
            return
        self._transferred = Transferred(self._environment.now - self.began, rates)
        self._finished()
