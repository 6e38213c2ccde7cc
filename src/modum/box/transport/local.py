"""Local: the client maps the server's memory and runs the kernels itself; no copy, and no server on the path."""

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from modum.box.calls import Calls
from modum.box.client.connection import GONE_HINT
from modum.box.client.pool import ConnectionPool
from modum.box.kernels import Kernels
from modum.box.memory.apply import Party, apply
from modum.box.memory.locks import Locks
from modum.box.memory.segment import Mapping
from modum.box.protocol.layout import Piece
from modum.box.protocol.messages import SegmentInfo, Wake, Welcome
from modum.box.sockets import local_host
from modum.box.transport.base import Attachment, Transport, Work
from modum.errors import AuthenticationError, ConnectionLostError, ModumError

_WORD_SECONDS: Final = 0.2
"""How long a server that has hung up is asked why."""


@dataclass(slots=True)
class LocalAttachment(Attachment):
    """A mapped segment, with locks of its own.

    Attributes:
        party: the mapping and the locks.
    """

    party: Party

    def close(self) -> None:
        """Close the descriptor; the memory is unmapped when its last array is gone."""
        self.party.locks.close()


class LocalTransport(Transport):
    """For a client on the machine of its server.

    Args:
        connections: connections over the server's Unix socket.
        threads: how many threads an operation may use.
        timeout: seconds to make the first connection, which no request uses: its end is that of the server.

    Raises:
        ConnectionLostError, DeadlineError: the server cannot be reached.
    """

    name = "local"

    def __init__(self, connections: ConnectionPool, threads: int, timeout: float) -> None:
        super().__init__(connections)
        self._watching = ExitStack()
        phase = "connect to the Unix socket"
        self._watched = self._watching.enter_context(connections.connection(timeout, phase))
        self._watched.connect(timeout, phase)
        self._mutex = threading.Lock()
        self._gone = False
        self._refusal = ""
        from modum.box.kernels import fused  # Numba: only who maps memory needs it

        self._kernels: Kernels = fused
        self._threads = threads
        self._workers = ThreadPoolExecutor(max(1, threads - 1), "modum-kernel")  # starts threads as they are needed

    @classmethod
    def why_not(cls, welcome: Welcome | None = None) -> str | None:
        """Return None where client and server share a kernel that has memfd_create(2), and a network namespace."""
        missing = [name for name, owner in (("memfd_create", os), ("send_fds", socket)) if not hasattr(owner, name)]
        if missing:
            return f"this Python or system has no {' and no '.join(missing)}"
        if welcome is not None and welcome.read_only:
            return "the token is read-only, and mapped memory can be written to"
        own = local_host()
        if not own:
            return "this process cannot read /proc, which tells whether a server runs on this machine"
        if welcome is not None and not welcome.local_socket:
            return "what has replicas goes through its server, and is not mapped"
        if welcome is not None and not welcome.local_host:
            return "the server cannot read its /proc, which tells on which machine it runs"
        if welcome is not None and welcome.local_host != own:
            return "it runs on another machine, or in another network namespace"
        return None

    @classmethod
    def open(cls, connections: ConnectionPool, welcome: Welcome, *, threads: int, timeout: float) -> Self:
        """Connect to the server's Unix socket instead: see `Transport.open`."""
        nearby = connections.redirected(f"\0{welcome.local_socket}")
        transport = cls(nearby, threads, timeout)
        connections.close()
        return transport

    def attach(self, info: SegmentInfo, timeout: float) -> LocalAttachment:
        """Map the segment, whose descriptor the server hands over the Unix socket: see `Transport.attach`."""
        phase = f"attach to buffer {info.name!r}"
        with self.connections.connection(timeout, phase) as connection:
            descriptor = connection.take_descriptor(info.segment, timeout, phase)
        try:
            mapping = Mapping(descriptor, info.segment_bytes)
            party = Party(info.name, info.dtype, mapping, Locks(descriptor, info.name, info.segment_bytes))
        finally:
            os.close(descriptor)
        return LocalAttachment(info, party)

    def run(self, work: Work) -> None:
        """Run the kernels on the mapped memory: see `Transport.run`."""
        target = _party(work.target)
        self.connections.check_process()  # a fork shares the locks, which would keep neither out
        if self._gone:
            self._check(work)
        waiting = deque(work.pieces)
        if helpers := min(self._threads, len(waiting)) - 1:
            self._share(helpers, partial(self._apply, work, target, waiting), waiting)
        else:
            self._apply(work, target, waiting)
        nbytes = sum([piece.nbytes for piece in work.pieces])  # for one piece, a list is quicker than a generator
        awaited = target.finish(work.op, nbytes, publish=work.publish, timeout=work.timeout)
        self._check(work)
        if awaited:
            self.call(Wake(work.target.info.segment), type(None), work.timeout)

    def version(self, attachment: Attachment, timeout: float, at_least: int = 0) -> int:
        """Return the version in the mapped memory; to wait, ask the server."""
        mapping = _party(attachment).mapping
        mapping.check(attachment.info.name)
        version = mapping.version
        self._check(f"version of buffer {attachment.info.name!r}")
        return version if version >= at_least else super().version(attachment, timeout, at_least)

    def publish(self, attachment: Attachment, timeout: float) -> None:
        """Raise the version in the mapped memory."""
        self.connections.check_process()
        awaited = _party(attachment).publish(timeout)
        self._check(f"publish on buffer {attachment.info.name!r}")
        if awaited:
            self.call(Wake(attachment.info.segment), type(None), timeout)

    def close(self) -> None:
        """Close the connections and end the threads."""
        super().close()
        self._watching.close()
        self._workers.shutdown()

    def _check(self, phase: object) -> None:
        """Check that the server has not gone: its memory stays mapped, but what was done there reaches nobody."""
        with self._mutex:
            if not self._gone and self._watched.lost:
                self._gone = True
                self._refusal = self._why_refused(phase)
        if self._refusal:
            raise AuthenticationError(self._refusal)
        if self._gone:
            raise ConnectionLostError(f"{phase}: memory server {self.address} is gone\n{GONE_HINT}")

    def _why_refused(self, phase: object) -> str:
        """Return why the server does not let this client in any more, if it is there and says so."""
        try:
            # risky: a client that has said goodbye, or was given up, does not come in anew
            self._watched.connect(_WORD_SECONDS, phase, risky=True)
        except AuthenticationError as error:
            return str(error)
        except (ModumError, OSError):
            pass  # it is gone
        finally:
            self._watched.close()
        return ""

    def _share(self, count: int, share: Callable[[], None], waiting: deque[Piece]) -> None:
        """Have so many threads help this one with the pieces that wait."""
        with Calls([share] * count) as helpers:
            try:
                helpers.hand_out(self._workers)
                share()
            except BaseException:
                waiting.clear()  # so that the helpers end soon
                raise
        helpers.results()

    def _apply(self, work: Work, target: Party, waiting: deque[Piece]) -> None:
        apply(
            self._kernels,
            work.op,
            target,
            waiting,
            timeout=work.timeout,
            data=work.data,
            source=_party(work.source) if work.source else None,
            factor=work.factor,
            leave=work.leave,
        )


def _party(attachment: Attachment) -> Party:
    assert isinstance(attachment, LocalAttachment)
    return attachment.party
