"""A memory server: a pool of segments, and threads that serve one connection each.

with Server(memory=2 << 30) as server:
    print(server.address)
"""

import logging
import os
import secrets
import selectors
import socket
import threading
import time
from typing import Final

from modum.box.auth import check_exposure, new_nonce, proof, proof_matches
from modum.box.protocol.frames import CARRIES_NUMBERS, STAGED, Header, Op, Status, check_request, parse_header
from modum.box.protocol.limits import HEADER_BYTES, SESSION_BYTES
from modum.box.protocol.messages import (
    Challenge,
    Greeting,
    Proof,
    ServerStatistics,
    Welcome,
    decode,
    encode,
    failure_of,
)
from modum.box.rdma.server import Reachable
from modum.box.server.dispatch import Dispatch
from modum.box.server.segments import Segments
from modum.box.server.sessions import Sessions, Slot
from modum.box.sockets import (
    format_address,
    local_host,
    receive_exactly,
    receive_greeting,
    send_frame,
    send_greeting,
    tune,
)
from modum.errors import AuthenticationError, ModumError, ProtocolError

log = logging.getLogger("modum.server")

DEFAULT_MEMORY: Final = 8 << 30
GRACE: Final = 2.0  # seconds without any connection after which a client counts as dead
MAX_STRANGERS: Final = 64  # connections in the handshake at one time
_TICK: Final = 0.25  # seconds between two looks for silent sessions


class Server:
    """One memory server in this process.

    Args:
        host: address to listen on. Anything but loopback needs a token.
        port: 0 takes a free one; see `address`.
        memory: limit of the pool in bytes; memory is used when it is first written to.
        token: what clients must hold; None lets in everybody who can reach the address.
        grace: seconds without any connection after which a client counts as dead.

    Raises:
        ValueError: no token, and not loopback; or a limit below one byte.
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        memory: int = DEFAULT_MEMORY,
        token: str | None = None,
        grace: float = GRACE,
    ) -> None:
        check_exposure(host, token)
        if memory < 1:
            raise ValueError(f"memory must be at least 1 byte, not {memory}")
        self.identifier = secrets.token_hex(8)
        self._token = token
        self._pool = Segments(memory)
        self._sessions = Sessions(grace, self._end_session)
        self._reachable = Reachable()
        self._service = Dispatch(self._pool, self._sessions, self._reachable, self.statistics)
        self._started = time.monotonic()
        self._stopping = threading.Event()
        self._strangers = threading.BoundedSemaphore(MAX_STRANGERS)
        self._connections: dict[threading.Thread, socket.socket] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=128)
        self._local_name = f"modum-{self.identifier}"
        self._local_listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._local_listener.bind(f"\0{self._local_name}")
        self._local_listener.listen(128)
        self._wake, self._wake_end = socket.socketpair()
        self.address = format_address(host, self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, name="modum-server", daemon=True)

    # ---- life

    def start(self) -> "Server":
        """Start to serve, in threads of this process."""
        self._acceptor.start()
        return self

    def close(self) -> None:
        """Stop serving and give the memory back; clients that mapped it are told. Does nothing the second time."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._service.stop()
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
        self._pool.close()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def statistics(self) -> ServerStatistics:
        """What this server holds and has done so far."""
        traffic = self._pool.traffic()
        return ServerStatistics(
            server=self.identifier,
            address=self.address,
            process=os.getpid(),
            seconds=time.monotonic() - self._started,
            memory=self._pool.limit,
            used=self._pool.used,
            buffers=len(self._pool.segments()),
            clients=len(self._sessions),
            connections=len(self._connections),
            operations=traffic.operations,
            nbytes=traffic.nbytes,
        )

    def _end_session(self, session: str) -> None:
        self._service.end_session(session)

    # ---- connections

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in (self._listener, self._local_listener, self._wake_end):
                selector.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in selector.select(_TICK):
                    if key.fileobj is not self._wake_end:
                        self._welcome(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered
                self._sessions.end_silent_ones()

    def _welcome(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            log.warning("a connection could not be accepted: %s", error)
            self._stopping.wait(_TICK)  # out of descriptors, most likely: the others' need some time to end
            return
        if not self._strangers.acquire(blocking=False):
            connection.close()
            return
        thread = threading.Thread(target=self._serve, args=(connection,), name="modum-lane", daemon=True)
        self._connections[thread] = connection
        thread.start()

    def _serve(self, connection: socket.socket) -> None:
        """Serve one connection until it ends; whatever goes wrong with it concerns no other."""
        try:
            with connection:
                try:
                    tune(connection)
                    session, lane = self._shake_hands(connection)
                finally:
                    self._strangers.release()
                try:
                    # a lane that connected again waits until the thread of its old connection has finished
                    with lane.serving:
                        lane.socket = connection
                        self._serve_lane(connection, session, lane)
                finally:
                    if not self._sessions.leave(session):
                        lane.close()
        except (ModumError, OSError) as error:
            log.info("connection ended: %s", str(error))
        finally:
            del self._connections[threading.current_thread()]

    def _shake_hands(self, connection: socket.socket) -> tuple[str, Slot]:
        try:
            _, data = receive_greeting(connection, Op.GREET)
            client_nonce = decode(data, Greeting).nonce
            nonce = new_nonce()
            send_greeting(connection, Op.GREET, Challenge(nonce, self.identifier, self._token is not None))
            _, data = receive_greeting(connection, Op.PROVE)
            answer = decode(data, Proof)
            if len(answer.session) != SESSION_BYTES:
                raise ProtocolError(f"a session has {SESSION_BYTES} bytes, not {len(answer.session)}")
            claim = (answer.session, answer.lane, client_nonce, nonce)
            if not proof_matches(answer.proof, proof(self._token, "client", *claim)):
                raise AuthenticationError("wrong token")
            session = answer.session.hex()
            lane, known = self._sessions.enter(session, answer.lane, answer.acknowledged)
            if known:
                lane.hang_up()
        except ModumError as error:
            send_greeting(connection, Op.PROVE, failure_of(error), Status.REFUSED)
            raise
        send_greeting(
            connection,
            Op.PROVE,
            Welcome(
                proof(self._token, "server", *claim),
                known,
                self._local_name,
                local_host(),
                self._reachable.rails,
                self._reachable.no_rails,
            ),
        )
        return session, lane

    def _serve_lane(self, connection: socket.socket, session: str, lane: Slot) -> None:
        start = memoryview(bytearray(HEADER_BYTES))
        while receive_exactly(connection, start, idle=True):
            try:
                header = parse_header(start)
                check_request(header)
                repeated = header.sequence <= lane.last
                if not repeated and header.sequence != lane.last + 1:
                    raise ProtocolError(f"request {header.sequence} came after request {lane.last}")
                payload = self._room(lane, header, repeated)
            except ProtocolError as error:
                self._refuse(connection, error)
                return
            if header.payload and not receive_exactly(connection, payload):
                return
            if header.op is Op.ATTACH:
                self._service.hand_over(connection, lane, header)
                continue
            try:
                if not repeated:
                    lane.remember(header.sequence, self._service.answer(session, lane, header, payload))
                reply = lane.reply_to(header.sequence)
            except ProtocolError as error:
                self._refuse(connection, error)
                return
            send_frame(connection, reply.header, reply.payload)
            if lane.farewell:
                self._sessions.end(session)
                return

    @staticmethod
    def _room(lane: Slot, header: Header, repeated: bool) -> memoryview:
        """Memory for the payload of a request; where it is staged, it is there already."""
        # the slot of a repeated request holds the reply that is asked for again
        if repeated or header.op >= Op.CALL:
            return memoryview(bytearray(header.payload))
        if header.flags & STAGED and header.op in CARRIES_NUMBERS:
            return lane.slot(header.sequence, header.count, staged=True)
        return lane.slot(header.sequence, header.payload)

    @staticmethod
    def _refuse(connection: socket.socket, error: ProtocolError) -> None:
        """Say what was wrong; the caller closes the connection."""
        payload = encode(failure_of(error))
        send_frame(connection, Header(Op.CALL, 0, len(payload), status=Status.REFUSED), payload)
        log.warning("connection refused: %s", str(error))  # a record must not keep the error's frames alive
