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
from pathlib import Path
from typing import Any, Final

import msgspec

from modum.box.auth import check_encryption, check_exposure
from modum.box.memory.trial import shared_memory_trouble
from modum.box.protocol.limits import DEFAULT_MEMORY, GRACE, HANDSHAKE_SECONDS, MAX_STRANGERS
from modum.box.protocol.messages import OwnerStatistics, ServerStatistics, Stand, Welcome
from modum.box.server.alone import Alone
from modum.box.server.core import Core
from modum.box.server.replication.ring import Replication, Ring
from modum.box.server.serving import Service
from modum.box.server.snapshots import SnapshotSettings
from modum.box.server.strangers import Strangers
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
        replication: the servers that stand in for each other, of which this is one; None: nobody stands in for it.

    Attributes:
        address: where it listens, as clients name it.
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
        replication: Replication | None = None,
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
        forbidden = (
            "it encrypts, which RDMA cannot (modum server --unencrypted-rdma offers it all the same)"
            if encrypt and not unencrypted_rdma
            else ""
        )
        self._run = secrets.token_hex(8)

        def core(snapshots: SnapshotSettings | None = None, identifier: str | None = None) -> Core:
            return Core(
                memory,
                grace,
                self._seen_by,
                limit_of=self._tokens.limit_of,
                forbidden=forbidden,
                identifier=identifier,
                snapshots=snapshots,
            )

        self._hall: Alone | Ring
        if replication is None:
            self._hall = Alone(core(snapshots, self._run), restore, self._welcome)
        else:
            if snapshots or restore:
                raise ValueError("a server with replicas writes and restores no snapshots: choose one of the two")
            if tokens is not None:
                raise ValueError("servers with replicas have one token, not several: give it by MODUM_TOKEN")
            self._hall = Ring(replication, self._run, token, core)
        self._service = Service(self._tokens, self._hall, encrypt=encrypt)
        self.restored = ""
        self._started = time.monotonic()
        self._stopping = threading.Event()
        self._faults = 0
        self._connections: dict[threading.Thread, socket.socket] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=128)
        self._local_name = f"modum-{self._run}"
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
            self.restored = self._hall.start(self.address)
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
        self._hall.stop()
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
        self._hall.close()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def identifier(self) -> str:
        """Random; it names this run of the server."""
        return self._run

    @property
    def clients(self) -> int:
        """How many clients it has."""
        return sum(len(core.sessions) for core in self._hall.cores())

    @property
    def stands(self) -> dict[int, Stand]:
        """Who serves the places of the box that clients find here now; empty where nobody stands in for this server."""
        return self._hall.stands()

    @property
    def votes(self) -> bool:
        """Whether it votes on who serves the places of the box; without, no other server should be lost."""
        return self._hall.votes

    def statistics(self) -> ServerStatistics:
        """Return what this server holds and has done so far; with replicas, of the first place that it serves."""
        return self._describe(self._hall.cores()[0])

    def _describe(self, core: Core) -> ServerStatistics:
        traffic = core.segments.traffic()
        return ServerStatistics(
            server=core.identifier,
            address=self.address,
            process=os.getpid(),
            seconds=time.monotonic() - self._started,
            memory=core.budget.limit,
            used=core.budget.used,
            working=core.sessions.working,
            buffers=len(core.segments.segments()),
            clients=len(core.sessions),
            connections=len(self._connections),
            operations=traffic.operations,
            nbytes=traffic.nbytes,
            faults=self._faults,
            snapshots=core.snapshot_statistics(),
            stand=next((each for place, each in self._hall.stands().items() if self._hall.core(place) is core), None),
        )

    def _seen_by(self, core: Core, token: Token) -> ServerStatistics:
        """Return the statistics of a core without the jobs that a token is not for."""
        jobs = [job for job in self._tokens.jobs() if token.job in ("", job)]
        owners = [OwnerStatistics(job, core.budget.used_by(job), self._tokens.limit_of(job) or 0) for job in jobs]
        return msgspec.structs.replace(self._describe(core), owners=owners)

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
                    for core in self._hall.cores():
                        core.sessions.end_silent_ones()
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
        for core in self._hall.cores():
            core.sessions.end_void_ones(self._tokens)

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

    def _welcome(
        self, core: Core, proof: bytes, resumed: bool, incarnation: bytes, applied: int, token: Token
    ) -> Welcome:
        return Welcome(
            proof,
            resumed,
            incarnation,
            applied,
            self._local_name,
            local_host(),
            core.reachable.rails,
            core.reachable.no_rails,
            token.job,
            token.read_only,
        )


def _place(connection: socket.socket, address: Any) -> str:
    """Return where a connection comes from: a host, or a user of this machine."""
    if connection.family != socket.AF_UNIX:
        return str(address[0])
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return f"user {user}"
