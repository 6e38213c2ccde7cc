"""The network of a simulated world: it delays, cuts, loses and is silent."""

import errno
import itertools
import os
import socket as real
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.clockwork import Clockwork, Process
from tests.simulation.threads import Waiters

_DONTWAIT = int(real.MSG_DONTWAIT)  # enumerations are slow
_WAITALL = int(real.MSG_WAITALL)
CAPACITY = 1 << 12
"""Bytes on their way and in the receiver's queue: more are not taken."""
KEEPALIVE = 30.0
"""Seconds after which a side that has nothing under way notices that nothing gets through, as `tune` sets it."""
RETRIES = 924.0
"""Seconds for which Linux sends something again that nobody acknowledges, where no option says otherwise."""
RETRANSMIT = 0.2
"""Seconds: packets of a path that was silent come at most so long after it speaks again."""


class Network:
    """Hosts, listeners and connections.

    Args:
        clock: of the world.
        delay: longest usual delay of a packet, in seconds.
    """

    def __init__(self, clock: Clockwork, delay: float) -> None:
        self.clock = clock
        self.delay = delay
        self.listeners: dict[tuple[str, Any], Socket] = {}
        self.links: list[Link] = []
        self.silent: dict[frozenset[str], int] = {}
        """Pairs of hosts between which nothing gets through, and until which tick."""
        self.deliver: Callable[[Link, bytes], str] = lambda link, data: ""
        """Asked for every packet: "" delivers it, "cut" breaks the connection before, "after" behind it, "half" lets
        the receiver alone know, "lose" drops it and all that follow in silence."""
        self._ports = itertools.count(20000)
        self._numbers = itertools.count(1000)

    def silence(self, one: str, other: str, seconds: float) -> None:
        """Let nothing through between two hosts for so long."""
        pair = frozenset((one, other))
        self.silent[pair] = max(self.silent.get(pair, 0), self.clock.now + round(seconds * 1e6))

    def quiet_for(self, one: str, other: str) -> float:
        """Seconds for which nothing gets through between two hosts."""
        left = self.silent.get(frozenset((one, other)), 0) - self.clock.now
        return left / 1e6 if left > 0 and one != other else 0.0

    def cut(self, link: "Link") -> None:
        """Break a connection; both ends learn of it, each in its time. What was on its way is lost."""
        for end in link.ends:
            end.incoming.lose()
            self.clock.at(self.latency(), end.reset)

    def vanish(self, process: Process) -> None:
        """Lose all that the process sends and is sent from now on, without a word to the other ends."""
        for link in self.links:
            if not link.local and any(end.process is process for end in link.ends):
                for end in link.ends:
                    end.incoming.lose()

    def latency(self) -> float:
        """Seconds that a packet takes."""
        return self.clock.random.random() * self.delay

    def socket(self) -> "Socket":
        """Return a socket for the process whose turn it is."""
        return Socket(self)

    def port(self) -> int:
        return next(self._ports)

    def number(self) -> int:
        return next(self._numbers)


class Direction:
    """Bytes on their way to one end of a connection, in order."""

    def __init__(self, network: Network, link: "Link", reader: "Socket") -> None:
        self.network = network
        self.link = link
        self.reader = reader
        self.flying = 0
        self.lost = False
        self._packets: deque[tuple[int, bytes | None, Sequence[int]]] = deque()

    @property
    def writer(self) -> "Socket":
        return self.link.other(self.reader)

    def lose(self) -> None:
        """Lose what is on its way, and all that follows; the ends notice in the end, as nothing is acknowledged."""
        if self.lost:
            return
        self.lost = True
        if self._packets:
            self.writer.unacknowledged = True
            self._packets.clear()
        for end in self.link.ends:
            self.network.clock.at(KEEPALIVE, end.expire)

    def send(self, data: bytes | None, descriptors: Sequence[int] = ()) -> None:
        """Put bytes on their way; None is the end of the stream."""
        if self.lost:
            self.writer.unacknowledged = True
            return
        clock = self.network.clock
        due = clock.now + round((0.0 if self.link.local else self.network.latency()) * 1e6)
        self.flying += len(data or b"")
        self._packets.append((due, data, descriptors))
        if len(self._packets) == 1:
            self._expect(due)

    def _expect(self, due: int) -> None:
        clock = self.network.clock
        clock.at(max(0, due - clock.now) / 1e6, self._arrive)

    def _arrive(self) -> None:
        """The first packet reaches the other end, unless nothing gets through: then it is sent again later."""
        if not self._packets:
            return
        if quiet := self.network.quiet_for(self.writer.host, self.reader.host):
            self.network.clock.at(quiet + self.network.clock.random.random() * RETRANSMIT, self._arrive)
            return
        _, data, descriptors = self._packets.popleft()
        self.flying -= len(data or b"")
        if self._packets:
            self._expect(self._packets[0][0])
        fate = "" if self.link.local else self.network.deliver(self.link, data or b"")
        if fate == "cut":
            self.network.cut(self.link)
        elif fate == "lose":
            self.lose()
        elif fate == "half":
            self.lose()
            self.reader.reset()
        else:
            self.reader.arrived(data, descriptors)
            if fate == "after":
                self.network.cut(self.link)


class Link:
    """An established connection."""

    def __init__(self, network: Network, one: "Socket", other: "Socket", *, local: bool) -> None:
        self.local = local
        self.ends = (one, other)
        one.link = other.link = self
        one.incoming, other.incoming = Direction(network, self, one), Direction(network, self, other)
        network.links.append(self)

    def other(self, end: "Socket") -> "Socket":
        return self.ends[1] if end is self.ends[0] else self.ends[0]


class Socket:
    """`socket.socket`."""

    incoming: Direction

    def __init__(self, network: Network, family: int = real.AF_INET, kind: int = real.SOCK_STREAM) -> None:
        self.family = family
        self.network = network
        self.clock = network.clock
        self.process: Process = self.clock.task.process
        self.host = self.process.host
        self.number = network.number()
        self.link: Link | None = None
        self.queue = bytearray()
        self.descriptors: list[int] = []
        self.ended = self.broken = self.closed = self.shut = False
        self.backlog: deque[Socket] | None = None
        self.limit = 0
        self.name: Any = None
        self.low_water = 1
        self.unacknowledged = False
        self.receive_timeout: float | None = None
        self.send_timeout: float | None = None
        self.user_timeout: float | None = None
        self.changed = Waiters(self.clock)
        self.process.died.append(self.vanish)

    # ---- what the network does

    def arrived(self, data: bytes | None, descriptors: Sequence[int]) -> None:
        if self.broken:
            return  # the stream has ended: what comes later belongs to no connection
        if data is None:
            self.ended = True
        else:
            self.queue += data
            self.descriptors += descriptors
        self.changed.wake()

    def reset(self) -> None:
        self.broken = True
        self.queue.clear()
        self.changed.wake()
        if self.link is not None:
            self.link.other(self).changed.wake()

    def expire(self) -> None:
        """Nothing has been acknowledged for as long as an idle connection may be silent."""
        if self.closed or self.broken:
            return
        if self.unacknowledged and self.user_timeout is None:
            self.clock.at(RETRIES - KEEPALIVE, self.reset)
        else:
            self.reset()

    def vanish(self) -> None:
        """What the kernel does with the socket of a process that has died."""
        if not self.closed:
            self.closed = True
            if self.backlog is not None:
                self._unlisten()
            elif self.link is not None:
                self._hang_up()
            self.changed.wake()

    def _unlisten(self) -> None:
        assert self.backlog is not None
        self.network.listeners = {k: v for k, v in self.network.listeners.items() if v is not self}
        for waiting in self.backlog:
            waiting.vanish()

    def _hang_up(self) -> None:
        assert self.link is not None
        other = self.link.other(self)
        if other.incoming.lost:
            return  # nobody hears of it
        if self.queue:
            other.incoming.lose()
            self.clock.at(self.network.latency() + self.network.quiet_for(self.host, other.host), other.reset)
        else:
            other.incoming.send(None)

    # ---- options

    def setblocking(self, flag: bool) -> None:
        self.receive_timeout = self.send_timeout = None if flag else 0.0

    def settimeout(self, seconds: float | None) -> None:
        self.receive_timeout = self.send_timeout = seconds

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self._check()
        if option in (real.SO_RCVTIMEO, real.SO_SNDTIMEO) and isinstance(value, bytes):
            whole, micro = struct.unpack("ll", value)
            seconds = whole + micro / 1e6
            if option == real.SO_RCVTIMEO:
                self.receive_timeout = seconds
            else:
                self.send_timeout = seconds
        elif level == real.SOL_SOCKET and option == real.SO_RCVLOWAT:
            self.low_water = int(value)
        elif level == real.IPPROTO_TCP and option == real.TCP_USER_TIMEOUT:
            self.user_timeout = int(value) / 1000

    def getsockopt(self, level: int, option: int, length: int = 0) -> Any:
        return struct.pack("3i", 1, os.getuid(), os.getgid()) if length else 0

    def fileno(self) -> int:
        return -1 if self.closed else self.number

    def getsockname(self) -> Any:
        return self.name

    def getpeername(self) -> Any:
        assert self.link is not None
        return (self.link.other(self).host, self.link.other(self).number)

    # ---- connecting

    def bind(self, name: Any) -> None:
        self.name = name

    def listen(self, backlog: int = 128) -> None:
        self.backlog = deque()
        self.limit = backlog
        self.network.listeners[self._key(self.name)] = self

    def _key(self, name: Any) -> tuple[str, Any]:
        return (f"unix {self.host}", name) if self.family == real.AF_UNIX else ("tcp", tuple(name[:2]))

    def connect(self, name: Any) -> None:
        self._check()
        clock = self.clock
        end = clock.time() + (128.0 if self.receive_timeout is None else self.receive_timeout)
        tcp = self.family != real.AF_UNIX
        while tcp:
            quiet = self.network.quiet_for(self.host, self._host_of(name))
            if not quiet:
                break
            left = end - clock.time()
            if left <= 0:
                raise TimeoutError("timed out")
            clock.sleep(min(quiet + clock.random.random() * RETRANSMIT, left))
        if tcp:
            clock.sleep(self.network.latency())
        listener = self.network.listeners.get(self._key(name))
        if listener is None or listener.closed or not listener.process.alive:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        assert listener.backlog is not None
        there = Socket.__new__(Socket)
        there._accepted(listener)
        Link(self.network, self, there, local=not tcp)
        listener.backlog.append(there)
        listener.changed.wake()

    def _host_of(self, name: Any) -> str:
        return str(name[0])

    def _accepted(self, listener: "Socket") -> None:
        self.family = listener.family
        self.network, self.clock = listener.network, listener.clock
        self.process, self.host = listener.process, listener.host
        self.number = self.network.number()
        self.queue = bytearray()
        self.descriptors = []
        self.ended = self.broken = self.closed = self.shut = False
        self.backlog, self.limit, self.name, self.low_water = None, 0, listener.name, 1
        self.receive_timeout = self.send_timeout = self.user_timeout = None
        self.unacknowledged = False
        self.changed = Waiters(self.clock)
        self.process.died.append(self.vanish)

    def accept(self) -> tuple["Socket", Any]:
        self._check()
        assert self.backlog is not None
        while not self.backlog:
            self.changed.wait()
            self._check()
        there = self.backlog.popleft()
        return there, there.getpeername()

    # ---- moving bytes

    def sendmsg(self, parts: Sequence[bytes | memoryview], ancillary: Any = (), flags: int = 0) -> int:
        return self.send(b"".join(parts), flags)

    def sendall(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += self.send(data[done:])

    def send(self, data: bytes | memoryview, flags: int = 0, descriptors: Sequence[int] = ()) -> int:
        self._check()
        self.clock.yield_now()
        self._check()
        assert self.link is not None
        there = self.link.other(self)
        timeout = self.send_timeout
        total = 0
        while True:
            if self.broken or self.shut:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            if (there.closed or there.broken) and not there.incoming.lost:
                # the other side answers with a reset
                self.clock.at(self.network.latency(), self.reset)
                return total + len(data)
            room = CAPACITY - there.incoming.flying - len(there.queue)
            if room > 0:
                part = bytes(data[:room])
                there.incoming.send(part, descriptors)
                total += len(part)
                data = data[len(part) :]
                if not len(data) or flags & _DONTWAIT:
                    return total
                continue
            if flags & _DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "would block")
            if not self.changed.wait(timeout) and timeout is not None:
                if total:
                    return total
                raise BlockingIOError(errno.EAGAIN, "would block")

    def recv_into(self, target: memoryview, count: int = 0, flags: int = 0) -> int:
        wanted = count or len(target)
        done = 0
        self._check()
        if not flags & _DONTWAIT:
            self.clock.yield_now()
        while True:
            if self.broken and not self.queue:
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            if self.queue:
                part = self.queue[: wanted - done]
                target[done : done + len(part)] = part
                del self.queue[: len(part)]
                done += len(part)
                if self.link is not None:
                    self.link.other(self).changed.wake()
                if done == wanted or not flags & _WAITALL:
                    return done
                continue
            if self.ended or self.shut:
                return done
            if flags & _DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "would block")
            if not self.changed.wait(self.receive_timeout) and self.receive_timeout is not None:
                if done:
                    return done
                raise BlockingIOError(errno.EAGAIN, "would block")
            self._check()

    def recv(self, count: int, flags: int = 0) -> bytes:
        data = bytearray(count)
        return bytes(data[: self.recv_into(memoryview(data), 0, flags)])

    def shutdown(self, how: int) -> None:
        self._check()
        if self.link is None or self.broken:
            raise OSError(errno.ENOTCONN, "not connected")
        if not self.shut:
            self.shut = True
            self.link.other(self).incoming.send(None)
            self.changed.wake()

    def close(self) -> None:
        self.vanish()

    def detach(self) -> int:
        return self.number

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        self.clock.task  # noqa: B018 - raises where nobody lives any more
        if self.closed:
            raise OSError(errno.EBADF, "Bad file descriptor")

    # ---- readiness

    def readable(self) -> bool:
        if self.backlog is not None:
            return bool(self.backlog)
        return len(self.queue) >= self.low_water or self.ended or self.broken or self.shut

    def writable(self) -> bool:
        if self.link is None or self.broken:
            return True
        there = self.link.other(self)
        return CAPACITY - there.incoming.flying - len(there.queue) > 0 or there.closed
