"""The last look at a box, by a client that comes when all is over: what was promised must be there, and nothing else.

The names say what is what: those of counters begin with "counter", of summed buffers with "sum", of exchanged ones with
"weights".
"""

import numpy as np

from modum.box import Box
from modum.box.protocol.limits import GRACE
from modum.errors import BufferNotFoundError, DeadlineError
from tests.simulation.history import BrokenPromiseError, History

ROUNDING = 0.01
"""What the rounding of exchanges may add up to."""


def look_at_numbers(box: Box, history: History) -> None:
    """Counters, sums, registers, exchanged weights and values."""
    names = {info.name for info in box.list()}
    for name, total in history.sums.items():
        if name.startswith("counter"):
            total.check(box.counter(name).value, total.acknowledged, "final value")
        elif name.startswith("sum"):
            _check_there(name, names, total.acknowledged)
            for seen in _numbers(box, name, names):
                total.check(seen, total.acknowledged, "final value")
    for name, register in history.registers.items():
        _check_there(name, names, register.acknowledged)
        for seen in _numbers(box, name, names):
            register.check(seen, register.acknowledged, "final value")
    doubtful = {each.split()[0] for each in history.doubtful}
    for name in sorted(names):
        if name.startswith("weights") and name not in doubtful:
            moved = history.moved.get(name, 0.0)
            for seen in _opened(box, name):
                if abs(float(seen) - moved) > ROUNDING:
                    raise BrokenPromiseError(f"{name} are {seen}, clients gave {moved}")
    for name, (done, doubt) in history.swaps.items():
        if not done <= (value := box.value(name).get() or 0) <= done + doubt:
            raise BrokenPromiseError(f"{name} is {value} after {done} swaps, and {doubt} whose end is not known")


def look_at_work(box: Box, name: str, size: int, done: list[int]) -> list[int]:
    """Finish a work queue: no item may be lost, none done twice.

    Args:
        box: of a client.
        name: of the queue.
        size: of the queue.
        done: items whose completion was acknowledged.

    Returns:
        The items that were left.
    """
    if len(done) != len(set(done)):
        raise BrokenPromiseError(f"items {sorted(done)} of {name} were done")
    queue = box.queue(name, size)
    left: list[int] = []
    while True:
        try:
            item = queue.take(timeout=3 * GRACE)
        except DeadlineError:
            raise BrokenPromiseError(f"an item of {name} is held by nobody who lives") from None
        if item is None:
            return left
        if item in done or item in left:
            raise BrokenPromiseError(f"item {item} of {name} was handed out after it was done")
        queue.done(item)
        left.append(item)


def look_at_names(box: Box, names: tuple[str, ...], numbers: int) -> None:
    """Every name can be used, and the numbers of a buffer belong together."""
    for name in names:
        try:
            buffer = box.open(name)
        except BufferNotFoundError:
            pass
        except DeadlineError:
            box.delete(name)  # its maker died
        else:
            buffer.close()
            box.delete(name)
        box.create(name, numbers, "int64").write(np.ones(numbers, np.int64))
        if box.open(name).read().tolist() != [1] * numbers:
            raise BrokenPromiseError(f"buffer {name!r} has not what was written last")
        box.delete(name)


def look_at_what_is_held(box: Box) -> None:
    """Nobody who is gone holds a lease or has a session; the servers did not fail in anything."""
    held = [lease.name for lease in box.leases()]
    if held:
        raise BrokenPromiseError(f"leases {held} are held by nobody who lives")
    looks = box.statistics().servers
    sessions = [look.clients for look in looks]
    if any(count != 1 for count in sessions):
        raise BrokenPromiseError(f"servers have {sessions} sessions, but there is one client")


def _check_there(name: str, names: set[str], acknowledged: int) -> None:
    if acknowledged and name not in names:
        raise BrokenPromiseError(f"buffer {name!r}, which was changed, is not there")


def _opened(box: Box, name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    buffer = box.open(name)
    try:
        return np.unique(buffer.read())
    finally:
        buffer.close()


def _numbers(box: Box, name: str, names: set[str]) -> list[int]:
    """Return the different numbers of a buffer, if it is there."""
    return [int(seen) for seen in _opened(box, name)] if name in names else []
