"""A memory server: segments in a pool, and threads that serve one connection each.

with Server(memory=2 << 30) as server:
    print(server.address)
"""

import logging
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from modum.box.auth import check_encryption, check_exposure
from modum.box.memory.trial import shared_memory_trouble
from modum.box.protocol.limits import DEFAULT_MEMORY, GRACE, HANDSHAKE_SECONDS, MAX_STRANGERS, MIN_WORKING
from modum.box.protocol.messages import OwnerStatistics, ServerStatistics, Welcome
from modum.box.rdma.server import Reachable
from modum.box.server.budget import Budget
from modum.box.server.dispatch import Dispatch
from modum.box.server.membership import Membership
from modum.box.server.primitives import Primitives
from modum.box.server.restore import restore
from modum.box.server.segments import Segments
from modum.box.server.serving import Service
from modum.box.server.sessions import Session, Sessions
from modum.box.server.snapshots import Snapshots, SnapshotSettings
from modum.box.server.strangers import Strangers
from modum.box.server.waiting import WaitingRoom
from modum.box.sockets import format_address, local_host, tune
from modum.box.tokens import Token, Tokens
from modum.errors import ModumError
from modum.units import parse_bytes

log = logging.getLogger("modum.server")

_CREDENTIALS: Final = struct.Struct("3i")
"""What Linux says of the other end of a Unix socket: process, user, group."""
_TICK: Final = 0.25
"""Seconds between two looks for silent sessions."""


class Server:
    """One memory server in this process.

    Args:
        host: address to listen on. Anything but loopback needs a token.
        port: 0 takes a free one; see `address`.
        memory: limit of the pool: bytes, or a text like "64MiB" (`modum.units.parse_bytes`); memory is used when it is
            first written to.
        token: what clients must hold; None lets in everybody who can reach the address.
        grace: seconds without any connection after which a client counts as dead.
        snapshots: where to write them, and when; None writes none.
        restore: folder of a server's snapshots, of which `start` takes over the newest good one.
        tokens: file of several tokens, each with rights of its own (`modum token`), in place of `token`. It is read
            again when it changes.
        encrypt: take only encrypted connections over TCP, for which clients write `encrypt://` before the address.
            Clients on this machine map the memory, and use a Unix socket: that stays as it is.
        unencrypted_rdma: offer RDMA all the same, which is never encrypted.

    Attributes:
        address: where it listens, as clients name it.
        identifier: random; it names this run of the server.
        restored: what was taken over from which snapshot, in words; empty if nothing was.

    Raises:
        ValueError: no token, and not loopback or to encrypt; or a limit below one byte, or a text that is none; or a
            grace below 0.
        TypeError: the limit is neither a whole number nor a text, or the grace is no number.
        OSError: the address cannot be listened on.
        ModumError: memory cannot be shared on this machine.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        memory: int | str = DEFAULT_MEMORY,
        token: str | None = None,
        grace: float = GRACE,
        snapshots: SnapshotSettings | None = None,
        restore: Path | None = None,
        tokens: Path | None = None,
        encrypt: bool = False,
        unencrypted_rdma: bool = False,
    ) -> None:
        self._tokens = Tokens(token, tokens)
        token = self._tokens.shortest if tokens is not None else token
        check_exposure(host, token)
        check_encryption(token, encrypt=encrypt)
        if isinstance(memory, str):
            memory = parse_bytes(memory)
        if not isinstance(memory, int):
            raise TypeError(f"memory ({memory!r}) must be a whole number of bytes, or a text like '512MiB' or '8GiB'")
        if memory < 1:
            raise ValueError(f"memory must be at least 1 byte, not {memory}")
        if not grace >= 0:  # NaN, too: a session that never ends keeps its leases for ever
            raise ValueError(f"grace must be a number of seconds of at least 0, not {grace}")
        if trouble := shared_memory_trouble():
            raise ModumError(f"memory cannot be shared on this machine: {trouble}. HINT: modum doctor")
        self.identifier = secrets.token_hex(8)
        self._budget = Budget(memory, self._tokens.limit_of)
        self._segments = Segments(self._budget)
        self._room = WaitingRoom(time.monotonic)
        primitives = Primitives(time.monotonic, self._room, self._budget)
        working = max(MIN_WORKING, memory // 4)
        self._sessions = Sessions(grace, self._end_session, self._disturbed, time.monotonic, working)
        self._reachable = Reachable(
            "it encrypts, which RDMA cannot (modum server --unencrypted-rdma offers it all the same)"
            if encrypt and not unencrypted_rdma
            else ""
        )
        membership = Membership(
            lambda: self._segments.is_empty() and primitives.is_empty(), self._sessions.has_client_of
        )
        self.restored = ""
        self._restore = partial(_restore, restore, self._segments, primitives, membership)
        self._snapshots = (
            Snapshots(snapshots, self.identifier, self._segments, primitives, membership, self._room)
            if snapshots
            else None
        )
        self._dispatch = Dispatch(
            self._segments,
            primitives,
            self._room,
            membership,
            self._sessions,
            self._reachable,
            self._seen_by,
            self._snapshots,
        )
        self._service = Service(
            self.identifier, self._tokens, self._sessions, self._dispatch, self._introduction, encrypt=encrypt
        )
        self._started = time.monotonic()
        self._stopping = threading.Event()
        self._faults = 0
        self._connections: dict[threading.Thread, socket.socket] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=128)
        self._local_name = f"modum-{self.identifier}"
        self._local_listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._local_listener.bind(f"\0{self._local_name}")
        self._local_listener.listen(128)
        # whoever floods one door finds the other one free
        self._doors = {
            listener: Strangers(MAX_STRANGERS, HANDSHAKE_SECONDS, time.monotonic)
            for listener in (self._listener, self._local_listener)
        }
        self._wake, self._wake_end = socket.socketpair()
        self.address = format_address(host, self._listener.getsockname()[1], encrypted=encrypt)
        self._acceptor = threading.Thread(target=self._accept, name="modum-server", daemon=True)

    def start(self) -> "Server":
        """Take over a snapshot if there is to be one, and start to serve, in threads of this process.

        Returns:
            The server.

        Raises:
            SnapshotError: no snapshot is good, or another server writes its snapshots into the same folder. The
                server is closed then.
            PoolFullError: the memory is less than what is in the snapshot; likewise.
        """
        try:
            self.restored = self._restore()
            if self._snapshots:
                self._snapshots.start(self.address, restored=bool(self.restored))
        except BaseException:
            self.close()
            raise
        self._acceptor.start()
        return self

    def close(self) -> None:
        """Stop serving and give the memory back; clients that mapped it are told. Does nothing the second time."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._room.stop()
        if self._snapshots:
            self._snapshots.close()
        self._wake.send(b"x")
        if self._acceptor.is_alive():
            self._acceptor.join()
        for listener in (self._listener, self._local_listener, self._wake, self._wake_end):
            listener.close()
        for thread, connection in list(self._connections.items()):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed by its thread meanwhile
            thread.join()
        self._sessions.close()
        self._reachable.close()
        self._segments.close()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def statistics(self) -> ServerStatistics:
        """Return what this server holds and has done so far."""
        traffic = self._segments.traffic()
        return ServerStatistics(
            server=self.identifier,
            address=self.address,
            process=os.getpid(),
            seconds=time.monotonic() - self._started,
            memory=self._budget.limit,
            used=self._budget.used,
            working=self._sessions.working,
            buffers=len(self._segments.segments()),
            clients=len(self._sessions),
            connections=len(self._connections),
            operations=traffic.operations,
            nbytes=traffic.nbytes,
            faults=self._faults,
            snapshots=self._snapshots.statistics() if self._snapshots else None,
        )

    def _seen_by(self, token: Token) -> ServerStatistics:
        """Return the statistics without the jobs that a token is not for."""
        jobs = [job for job in self._tokens.jobs() if token.job in ("", job)]
        owners = [OwnerStatistics(job, self._budget.used_by(job), self._tokens.limit_of(job) or 0) for job in jobs]
        return msgspec.structs.replace(self.statistics(), owners=owners)

    def _end_session(self, session: Session) -> None:
        self._dispatch.end_session(session)

    def _disturbed(self) -> None:
        self._dispatch.wake()

    def _accept(self) -> None:
        """Accept connections, and end silent sessions, until the server stops: the acceptor's thread."""
        with selectors.DefaultSelector() as selector:
            for listener in (*self._doors, self._wake_end):
                selector.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                try:
                    for key, _ in selector.select(_TICK):
                        if key.fileobj is not self._wake_end:
                            self._let_in(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered
                    for strangers in self._doors.values():
                        strangers.hang_up_late_ones()
                    self._sessions.end_silent_ones()
                    self._look_at_tokens()
                except Exception:
                    log.exception("the acceptor failed in one turn, and goes on")
                    self._faults += 1
                    self._stopping.wait(_TICK)

    def _look_at_tokens(self) -> None:
        """Read the file of tokens again if it has changed, and end the sessions of those that hold no more."""
        try:
            self._tokens.refresh()
        except (OSError, ValueError) as error:
            log.warning("the tokens stay as they were: %s", error)
        self._sessions.end_void_ones(self._tokens)

    def _let_in(self, listener: socket.socket) -> None:
        try:
            connection, address = listener.accept()
        except OSError as error:
            log.warning("a connection could not be accepted: %s", error)
            self._stopping.wait(_TICK)  # out of descriptors, most likely: the others' need some time to end
            return
        strangers = self._doors[listener]
        thread = threading.Thread(
            target=self._serve, args=(connection, strangers), name="modum-connection", daemon=True
        )
        strangers.admit(connection, _place(connection, address))
        self._connections[thread] = connection
        try:
            thread.start()
        except RuntimeError:  # a limit of processes or of memory: the client tries again, and others go on
            del self._connections[thread]
            strangers.known(connection)
            connection.close()
            log.exception("a connection was turned away: no thread can be started for it")
            self._faults += 1

    def _serve(self, connection: socket.socket, strangers: Strangers) -> None:
        """Serve one connection until it ends; whatever goes wrong with it concerns no other."""
        try:
            with connection:
                try:
                    tune(connection)
                    self._service.serve(connection, lambda: strangers.known(connection))
                finally:
                    strangers.known(connection)
        except (ModumError, OSError) as error:
            log.info("connection ended: %s", str(error))
        except Exception:
            log.exception("a connection ended by a fault of the server")
            self._faults += 1
        finally:
            del self._connections[threading.current_thread()]

    def _introduction(self, proof: bytes, resumed: bool, incarnation: bytes, applied: int, token: Token) -> Welcome:
        return Welcome(
            proof,
            resumed,
            incarnation,
            applied,
            self._local_name,
            local_host(),
            self._reachable.rails,
            self._reachable.no_rails,
            token.job,
            token.read_only,
        )


def _restore(folder: Path | None, segments: Segments, primitives: Primitives, membership: Membership) -> str:
    return "" if folder is None else restore(folder, segments, primitives, membership)


def _place(connection: socket.socket, address: Any) -> str:
    """Return where a connection comes from: a host, or a user of this machine."""
    if connection.family != socket.AF_UNIX:
        return str(address[0])
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return f"user {user}"
