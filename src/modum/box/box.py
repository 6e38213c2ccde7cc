"""The box: one shared memory made of several memory servers, as one client sees it."""

import builtins
import logging
import math
import operator
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from modum.box.auth import public_name
from modum.box.buffer import Buffer, BufferInfo
from modum.box.fanout import Fanout
from modum.box.kernels import STORAGE
from modum.box.parts import Parts
from modum.box.primitives import Counter, Lease, LeaseInfo, Value, WorkQueue
from modum.box.protocol.limits import MAX_BUFFER, MAX_DIMENSIONS, MAX_NAME, SESSION_BYTES, TIMEOUT
from modum.box.protocol.messages import (
    Join,
    ListBuffers,
    ListLeases,
    Look,
    Request,
    SegmentInfo,
    ServerStatistics,
    check_plain,
    encode,
)
from modum.box.snapshots.take import take_snapshot
from modum.box.sockets import parse_address
from modum.box.transport import Attachment, Transport, check_choice, open_transport
from modum.errors import BufferExistsError, BufferNotFoundError, MismatchError, ModumError
from modum.waiting import Deadline

log = logging.getLogger("modum.box")

T = TypeVar("T")

MOST_THREADS: Final = 4
"""Threads of an operation, unless the box is told otherwise: a few fill the memory bus."""
_GOODBYE_TIMEOUT: Final = 1.0
_INCOMPLETE_PAUSE: Final = 0.01
"""Seconds between two looks for a buffer that is just being made."""


@dataclass(frozen=True, slots=True)
class BoxStatistics:
    """What `Box.statistics` returns.

    Attributes:
        servers: what each server holds and has done, in the box's order.
        transports: names of the transports by which this client reaches them.
        addresses: of the servers, as this client names them.
    """

    servers: tuple[ServerStatistics, ...]
    transports: tuple[str, ...]
    addresses: tuple[str, ...]


class Box:
    """One client of a pool of memory servers; made by `Box.connect`. Any thread may call anything.

    Args:
        servers: of the pool, connected.
        session: name of this client.
        namespace: below which all names of this client stand.

    Attributes:
        servers: addresses of the servers, in the order that is the box's identity.
        transports: names of the transports by which they are reached, "local", "rdma" or "tcp".
        routes: the same with what else tells one way from another, such as "rdma mlx5_0:1 to mlx5_0:1".
        session: the name of this client in errors and tables.
    """

    def __init__(self, servers: Fanout, session: str, namespace: str = "") -> None:
        self._servers = servers
        self._parts = Parts(servers)
        self._prefix = f"{namespace}/" if namespace else ""
        self.session = session
        self.servers = tuple(transport.address for transport in servers.transports)
        self.transports = tuple(transport.name for transport in servers.transports)
        self.routes = tuple(transport.route for transport in servers.transports)
        self._buffers: set[Buffer] = set()
        self._closed = False

    @classmethod
    def connect(
        cls,
        servers: str | Sequence[str],
        *,
        token: str | None = None,
        transport: str | None = None,
        timeout: float = TIMEOUT,
        threads: int | None = None,
        namespace: str = "",
    ) -> "Box":
        """Connect to memory servers.

        Args:
            servers: addresses "host:port", in a list or separated by commas. Every client must give the same list in
                the same order.
            token: the job's token; None for servers that have none. Nothing is taken from the environment here.
            transport: "local", "rdma", "tcp", or "auto", which None stands for. "auto" maps the memory of a server on
                this machine, and uses RDMA for another where both have a device for it, else TCP; a choice that cannot
                be had is an error.
            timeout: seconds without any progress after which a call gives up.
            threads: how many threads one operation may use where this client computes; None takes the CPUs that this
                process may use, at most 4.
            namespace: what every name of this client stands below, so that jobs that share a box do not meet: "a" in
                the namespace "b" is "b/a" to clients without one. Empty: the job of the token, if
                it is for one.

        Returns:
            The box, connected to all servers.

        Raises:
            ValueError: an argument is out of its range, or there is no such address or transport.
            AuthenticationError: the token is missing or wrong.
            ConnectionLostError, DeadlineError: a server cannot be reached.
            MismatchError: a server belongs to a box with another list.
            TransportError: the transport cannot be had; the message says why.
        """
        addresses = [part for part in servers.split(",") if part.strip()] if isinstance(servers, str) else list(servers)
        if not addresses:
            raise ValueError("no memory server was named. HINT: give host:port, as `modum server` prints it")
        for address in addresses:
            parse_address(address)  # before the first one is waited for
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a positive, finite number of seconds, not {timeout}")
        if threads is None:
            threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        choice = check_choice(transport)
        session = secrets.token_bytes(SESSION_BYTES)
        opened: list[Transport] = []
        with ExitStack() as failing:
            for place, address in enumerate(addresses):
                way = open_transport(
                    address,
                    place=place,
                    servers=addresses,
                    choice=choice,
                    token=token,
                    session=session,
                    threads=threads,
                    timeout=timeout,
                    others=[each.server for each in opened],
                )
                failing.callback(way.close)
                opened.append(way)
            identities = [way.server for way in opened]
            for index, way in enumerate(opened):
                join = Join(identities, [each.address for each in opened], index)
                way.call(join, type(None), timeout)
                way.connections.endpoint.box = join.digest
            failing.pop_all()
        for way in opened:
            log.info("box: %s via %s", way.address, way.route)
        jobs = {way.job for way in opened if way.job}
        return cls(Fanout(opened, timeout), public_name(session), namespace or (min(jobs) if jobs else ""))

    def close(self) -> None:
        """Say goodbye to the servers: leases and unfinished work items go back at once. Buffers stay in the box."""
        if self._closed:
            return
        with ExitStack() as stack:  # the last one first, and all of them, whatever is raised meanwhile: Ctrl-C, say
            stack.callback(self._servers.close)
            for way in self._servers.transports:
                stack.callback(_say_goodbye, way)
            for buffer in tuple(self._buffers):
                stack.callback(buffer.close)
        self._closed = True

    def __enter__(self) -> "Box":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        ways = zip(self.servers, self.transports, strict=True)
        return f"Box({', '.join(f'{server} via {transport}' for server, transport in ways)})"

    # ---- buffers

    def create(
        self,
        name: str,
        shape: int | Sequence[int],
        dtype: str = "float32",
        *,
        meta: dict[str, Any] | None = None,
    ) -> Buffer:
        """Make a zero-filled buffer, striped over all servers.

        Args:
            name: at most 255 bytes, the namespace included.
            shape: extents, each at least 1.
            dtype: "float32", "bfloat16" or "int64".
            meta: texts to anything that a small value may be (`Value`), for those who open it; at most 4 MiB.

        Returns:
            The buffer, open.

        Raises:
            ValueError: an argument is out of its range.
            TypeError: an extent is no whole number, or msgpack has no type for `meta`.
            BufferExistsError: the name is taken.
            BufferNotFoundError: somebody deleted it while it was being made.
            PoolFullError: a server has not enough memory left; nothing was made.
        """
        extents = _extents(shape)
        if dtype not in STORAGE:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(STORAGE)}")
        if len(extents) > MAX_DIMENSIONS or any(extent < 1 for extent in extents):
            raise ValueError(f"shape {tuple(extents)} must have at most {MAX_DIMENSIONS} extents of at least 1")
        name = self._prefix + name
        if not len(self._prefix) < len(name.encode()) <= MAX_NAME:
            raise ValueError(f"a name has 1 to {MAX_NAME} bytes, not {len(name.encode())}")
        nbytes = STORAGE[dtype].itemsize
        for extent in extents:
            nbytes *= extent
        if nbytes > MAX_BUFFER:
            raise ValueError(
                f"a buffer has at most {MAX_BUFFER} bytes, not {nbytes} (shape {tuple(extents)} of {dtype})"
            )
        check_plain(meta)
        return self._attach(self._parts.make(name, extents, dtype, nbytes, encode(meta or {})))

    def open(self, name: str) -> Buffer:
        """Open a buffer that somebody made.

        Args:
            name: within the client's namespace.

        Returns:
            The buffer.

        Raises:
            BufferNotFoundError: there is none of this name.
            MismatchError: its servers were restored from snapshots of different moments, and a part of it is lost.
            PoolFullError: its maker died before it was on all servers, and one has not enough memory left for its part.
        """
        return self._attach(self._parts.find(self._prefix + name))

    def open_or_create(
        self,
        name: str,
        shape: int | Sequence[int],
        dtype: str = "float32",
        *,
        meta: dict[str, Any] | None = None,
    ) -> Buffer:
        """Open the buffer of this name, or make it if it is not there; any number of clients may do so at one time.

        Args:
            name: as in `create`.
            shape: as in `create`.
            dtype: as in `create`.
            meta: for a buffer that is made here; that of one which is there stays as it is (`Buffer.meta`).

        Returns:
            The buffer, whoever made it.

        Raises:
            MismatchError: it is there with another shape or dtype.
            ValueError, TypeError, PoolFullError, DeadlineError: as in `create` and `open`.
        """
        wanted = tuple(_extents(shape))
        deadline = Deadline(self._servers.timeout)
        while True:
            try:
                buffer = self.open(name)
                break
            except BufferNotFoundError:
                if deadline.passed:
                    raise
            try:
                return self.create(name, shape, dtype, meta=meta)
            except (BufferExistsError, BufferNotFoundError):
                pass  # somebody was faster
        if (buffer.shape, buffer.dtype) != (wanted, dtype):
            buffer.close()
            raise MismatchError(
                f"buffer {self._prefix + name!r} is there with shape {buffer.shape} of {buffer.dtype},"
                f" here it should have shape {wanted} of {dtype}"
            )
        return buffer

    def _attach(self, infos: Sequence[SegmentInfo]) -> Buffer:
        attachments: builtins.list[Attachment] = []
        with ExitStack() as failing:
            for transport, info in zip(self._servers.transports, infos, strict=True):
                attachments.append(transport.attach(info, self._servers.timeout))
                failing.callback(attachments[-1].close)
            failing.pop_all()
        buffer = Buffer(self._servers, attachments, self._buffers.discard)
        self._buffers.add(buffer)
        return buffer

    def delete(self, name: str) -> None:
        """Delete a buffer; whoever has it open gets BufferNotFoundError from then on.

        Args:
            name: within the client's namespace.

        Raises:
            BufferNotFoundError: there is none of this name.
        """
        self._parts.delete(self._prefix + name)

    def list(self) -> builtins.list[BufferInfo]:
        """Return the buffers of this namespace, by name."""
        found = self._servers.each(
            lambda server, transport: [
                BufferInfo.of(info)
                for info in self._pages(transport, lambda after: ListBuffers(self._prefix, after), SegmentInfo, _name)
                if self._servers.home(info.name) == server
            ]
        )
        within = [replace(info, name=info.name.removeprefix(self._prefix)) for infos in found for info in infos]
        return sorted(within, key=lambda info: info.name)

    def _pages(
        self, transport: Transport, ask: Callable[[str], Request], kind: type[T], name: Callable[[T], str]
    ) -> Iterator[T]:
        """Ask a server for one page of a list after the other, each beginning behind a name."""
        after = ""
        while page := transport.call(ask(after), builtins.list[kind], self._servers.timeout):  # type: ignore[valid-type]
            yield from page
            after = name(page[-1])

    # ---- what workers agree by

    def counter(self, name: str) -> Counter:
        """Return the counter of this name: a 64-bit integer, 0 at first."""
        return Counter(self._servers, self._prefix + name)

    def queue(self, name: str, size: int) -> WorkQueue:
        """Return the work queue of this name, made on first use, with the items 0 to `size` - 1.

        Args:
            name: within the client's namespace.
            size: number of items, at least 1.

        Returns:
            The queue.

        Raises:
            ValueError: `size` is below 1, or the queue is there with another size.
            TypeError: `size` is no whole number.
        """
        size = operator.index(size)
        if size < 1:
            raise ValueError(f"a work queue has at least 1 item, not {size}")
        return WorkQueue(self._servers, self._prefix + name, size)

    def value(self, name: str) -> Value:
        """Return the small shared value of this name; there is none until somebody sets it."""
        return Value(self._servers, self._prefix + name)

    def lock(self, name: str, *, ttl: float = 30.0, timeout: float | None = None) -> Lease:
        """Take the lease of this name, waiting until it is free.

        Args:
            name: of the lease.
            ttl: seconds after which it is lost unless it is renewed.
            timeout: seconds to wait; None takes the box's.

        Returns:
            The lease, held by this client; a context manager that releases it.

        Raises:
            ValueError: `ttl` is not positive and finite.
            DeadlineError: somebody else still holds it; the message names the session.
        """
        if not 0 < ttl < math.inf:
            raise ValueError(f"ttl must be a positive, finite number of seconds, not {ttl}")
        return Lease.acquire(self._servers, self._prefix + name, float(ttl), timeout)

    def leases(self, prefix: str = "") -> builtins.list[LeaseInfo]:
        """Return the leases of this namespace that are held now and whose names start with `prefix`, by name."""
        found = self._servers.each(
            lambda _, transport: builtins.list(
                self._pages(
                    transport,
                    lambda after: ListLeases(self._prefix + prefix, after),
                    tuple[str, str, float],
                    lambda lease: lease[0],
                )
            )
        )
        held = (
            LeaseInfo(name.removeprefix(self._prefix), holder, seconds)
            for leases in found
            for name, holder, seconds in leases
        )
        return sorted(held, key=lambda lease: lease.name)

    def snapshot(self, *, timeout: float = 600.0) -> tuple[str, ...]:
        """Have every server write a snapshot that begins now, and wait until it is on its disk.

        Whatever was acknowledged before the call is in it.

        Args:
            timeout: seconds to wait for the last one.

        Returns:
            The folder of each server's snapshot, on its machine, in the order of the servers.

        Raises:
            SnapshotError: a server has no folder for snapshots, or could not write: the message says which and why.
            DeadlineError: it took longer; it may be written all the same.
        """
        return take_snapshot(self._servers, timeout)

    def statistics(self) -> BoxStatistics:
        """Return what every server holds and has done."""
        looks = self._servers.each(lambda _, transport: transport.call(Look(), ServerStatistics, self._servers.timeout))
        return BoxStatistics(tuple(looks), self.transports, self.servers)


def _say_goodbye(way: Transport) -> None:
    try:
        way.leave(_GOODBYE_TIMEOUT)
    except (ModumError, OSError) as error:
        log.info("goodbye failed: %s", error)


def _extents(shape: int | Sequence[int]) -> list[int]:
    """Return the extents of a shape."""
    try:
        return [operator.index(shape)]  # type: ignore[arg-type]  # the question is whether it is one
    except TypeError:
        pass
    try:
        return [operator.index(extent) for extent in shape]  # type: ignore[union-attr]
    except TypeError:
        raise TypeError(f"a shape is a whole number or a sequence of them, not {shape!r}") from None


def _name(info: SegmentInfo) -> str:
    return info.name
