"""Puts a simulated world in place of the machine, for the modules of the box."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from types import ModuleType
from typing import Any, ClassVar

import modum.box
import modum.box.kernels
import modum.box.server.server
import modum.box.transport
from modum.box.buffer import Buffer
from modum.box.fanout import Fanout
from modum.box.memory.locks import Locks
from modum.box.transport import Attachment
from tests.simulation.clockwork import Clockwork
from tests.simulation.history import BrokenPromiseError
from tests.simulation.network import Network
from tests.simulation.sockets import Select, Selectors, Sockets
from tests.simulation.threads import Executor, Future, Threads, Time, wait

CHUNK = 64
"""Bytes of a chunk in a simulated world, so that little data has many of them."""
SMALL = {"CHUNK": CHUNK, "STRIPE": 4 * CHUNK, "_UNIT": CHUNK, "SPIN_SECONDS": 0.0}
"""Constants that are other ones there."""
ROOMS = ("modum.box", "modum.waiting")


class Secrets:
    """`secrets`, from the world's seed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def token_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def randbelow(self, bound: int) -> int:
        return self._random.randrange(bound)

    def token_hex(self, count: int) -> str:
        return self.token_bytes(count).hex()


def _interrupted(act: Callable[..., Any], close: Callable[[Locks], None], clock: Clockwork) -> Callable[..., Any]:
    """Return a method of `Locks` before and after which others may have a turn; a dead process holds no locks."""

    def method(locks: Locks, *arguments: Any, **named: Any) -> Any:
        process = clock.task.process
        process.locks.setdefault(locks, lambda: close(locks))
        clock.yield_now()
        done = act(locks, *arguments, **named)
        clock.yield_now()
        return done

    return method


def _closing(act: Callable[[Locks], None], clock: Clockwork) -> Callable[[Locks], None]:
    """Return `Locks.close`, after which the process has no such locks to lose any more."""

    def close(locks: Locks) -> None:
        process = clock.task.process
        process.locks.pop(locks, None)
        act(locks)

    return close


class NoDevices:
    """What a server offers over RDMA in a world that has none."""

    rails: ClassVar[list[str]] = []
    no_rails = "there are no devices in this world"

    def __init__(self, forbidden: str = "") -> None:
        """Like `Reachable`, which may be told to offer nothing."""

    def forget(self, number: int) -> None:
        """Nothing is reachable."""

    def close(self) -> None:
        """Nothing is open."""


class Whole(Buffer):
    """A buffer whose parts must belong together."""

    def __init__(self, servers: Fanout, attachments: Sequence[Attachment], closed: Callable[[Buffer], None]) -> None:
        super().__init__(servers, attachments, closed)
        if len({attachment.info.incarnation for attachment in attachments}) != 1:
            raise BrokenPromiseError(f"buffer {self.name!r} has parts of several incarnations")


@contextmanager
def installed(clock: Clockwork, network: Network) -> Iterator[Threads]:
    """Have the box see this world, and nothing of the machine but memory, inside of the `with`."""
    from modum.box.kernels import portable

    threads = Threads(clock)
    stands_for: dict[str, Any] = {
        "threading": threads,
        "time": Time(clock),
        "socket": Sockets(network),
        "select": Select(clock),
        "selectors": Selectors(clock),
        "secrets": Secrets(clock.random),
        "ThreadPoolExecutor": lambda *_, **__: Executor(clock),
        "Future": lambda: Future(clock),
        "wait": wait,
        "local_host": lambda: clock.task.process.host,
        "Reachable": NoDevices,
        "Buffer": Whole,
        **SMALL,
    }
    before: list[tuple[ModuleType | type, str, Any]] = []
    try:
        for name, module in list(sys.modules.items()):
            if name == ROOMS[1] or name.split(".")[:2] == ROOMS[0].split("."):
                for attribute, fake in stands_for.items():
                    if attribute in vars(module):
                        before.append((module, attribute, vars(module)[attribute]))
                        setattr(module, attribute, fake)
        fused = vars(modum.box.kernels).get("fused")
        before.append((modum.box.kernels, "fused", fused))
        modum.box.kernels.fused = portable
        close = Locks.close
        for name in ("take", "drop", "take_trailer", "drop_trailer"):
            before.append((Locks, name, vars(Locks)[name]))
            setattr(Locks, name, _interrupted(vars(Locks)[name], close, clock))
        before.append((Locks, "close", Locks.close))
        setattr(Locks, "close", _closing(Locks.close, clock))  # noqa: B010 - mypy holds a method for unchangeable
        yield threads
    finally:
        for module, attribute, value in reversed(before):
            if value is None:
                delattr(module, attribute)
            else:
                setattr(module, attribute, value)
