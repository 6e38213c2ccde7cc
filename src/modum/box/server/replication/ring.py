"""A memory server among others that stand in for it, and for which it stands in."""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from modum.box.client.endpoint import Endpoint
from modum.box.protocol.frames import Header, Op, Status
from modum.box.protocol.limits import SESSION_BYTES, STALL_SECONDS
from modum.box.protocol.messages import (
    Failure,
    Greeting,
    Stand,
    Welcome,
    decode,
    encode,
    exception_of,
    failure_of,
)
from modum.box.protocol.replication import Hello, Member, Standing, Vote, VoteRequest
from modum.box.server.core import Core
from modum.box.server.replication.council import Council
from modum.box.server.replication.follower import receive_frame, receive_header
from modum.box.server.replication.place import Place
from modum.box.server.replication.voter import Voter
from modum.box.sockets import Stream, parse_address, receive_exactly, send_frame, tune
from modum.box.tokens import Token
from modum.errors import MismatchError, ModumError, ProtocolError
from modum.waiting import Deadline

log = logging.getLogger("modum.server")

VOTES: Final = "votes"
RECORDS: Final = "records"
"""What another server of the box comes for."""
FEWEST: Final = 3
"""Servers of a box with replicas: with two of them no majority is left when one is lost."""
_ANSWER_SECONDS: Final = 0.3
"""Seconds within which a server must answer another one's request for a vote."""
_DIAL_SECONDS: Final = 1.0
_TELL_SECONDS: Final = 5.0
"""Seconds after which a server says why it serves nobody."""
_FORGOTTEN: Final = (
    "too many servers of the box were started again at one time, and what they held is lost."
    " HINT: end all memory servers of the box, and start them again"
)
_MEET_SECONDS: Final = 0.5
"""Seconds between two looks at how the others stand."""
_TICK: Final = 0.1


@dataclass(frozen=True, slots=True)
class Replication:
    """The servers of a box that stand in for each other.

    Attributes:
        servers: addresses `host:port` of all, in the order of the box; each is reached by the others there.
        index: number of this one.
    """

    servers: Sequence[str]
    index: int

    def __post_init__(self) -> None:
        if len(self.servers) < FEWEST:
            raise ValueError(
                f"replicas take at least {FEWEST} memory servers, not {len(self.servers)}: a majority must be left"
                " when one is lost"
            )
        if not 0 <= self.index < len(self.servers):
            raise ValueError(f"index must be from 0 to {len(self.servers) - 1}, not {self.index}")
        for address in self.servers:
            parse_address(address)
            if list(self.servers).count(address) > 1:
                raise ValueError(
                    f"memory server {address} stands in the list twice: {', '.join(self.servers)}."
                    " HINT: give each server of the box once"
                )


class Ring:
    """Serves the places of the box that this server has now, and votes on who has the others: see `Hall`.

    Args:
        replication: the servers.
        run: random name of this run of the server.
        token: the job's token, or None.
        core: makes an empty core.
    """

    replicated = True

    def __init__(self, replication: Replication, run: str, token: str | None, core: Callable[[], Core]) -> None:
        self._replication = replication
        self._token = token
        count = len(replication.servers)
        self._voter = Voter(run, count)
        self._peers = [_Peer(replication, server, token) for server in range(count)]
        self._council = Council(replication.index, count, self._voter, self._ask)
        self._places = [
            Place(
                number,
                Member(replication.index, run),
                count,
                self._voter,
                self._council,
                core,
                self._dial,
            )
            for number in range(count)
        ]
        self._spare = core()
        self._run = run
        self._stopping = threading.Event()
        self._attending = threading.Thread(target=self._attend, name="modum-voter", daemon=True)

    def start(self, address: str) -> str:
        """Take part."""
        self._attending.start()
        for place in self._places:
            place.start()
        return ""

    def core(self, place: int) -> Core | None:
        """Return what serves a place here: see `Hall`."""
        return self._places[place].core if 0 <= place < len(self._places) else None

    def cores(self) -> list[Core]:
        """Return all that is served here; an empty one if nothing is."""
        return [core for place in self._places if (core := place.core)] or [self._spare]

    def stands(self) -> dict[int, Stand]:
        """Return who serves the places that are served here."""
        return {place.number: stand for place in self._places if place.core and (stand := place.stand)}

    @property
    def votes(self) -> bool:
        """Whether this server votes on the next view of every place."""
        return self._voter.votes_on_all

    def welcome(
        self, core: Core, proof: bytes, resumed: bool, incarnation: bytes, applied: int, token: Token
    ) -> Welcome:
        """Return the last message of the handshake: what is replicated goes through the server, and is not mapped."""
        no_rails = "memory servers with replicas offer none"
        return Welcome(proof, resumed, incarnation, applied, "", "", [], no_rails, token.job, token.read_only)

    def peer(self, greeting: Greeting, connection: Stream) -> None:
        """Serve another server of the box: see `Hall`."""
        if greeting.purpose == RECORDS:
            if not 0 <= greeting.place < len(self._places):
                raise ProtocolError(f"there is no place {greeting.place} in a box of {len(self._places)}")
            self._welcome_peer(connection)
            self._places[greeting.place].follow(connection)
        elif greeting.purpose == VOTES:
            self._welcome_peer(connection)
            while (header := receive_header(connection)) is not None:
                payload = memoryview(bytearray(header.payload))
                receive_exactly(connection, payload)
                request: VoteRequest = decode(payload, VoteRequest)  # type: ignore[arg-type]  # a union of messages
                send_message(connection, self._voter.answer(request))
        else:
            raise ProtocolError(f"nobody comes for {greeting.purpose!r}")

    def _welcome_peer(self, connection: Stream) -> None:
        """Tell another server this one's run, if both were told the same list of servers."""
        _, payload = receive_frame(connection)
        hello, ours = decode(payload, Hello), list(self._replication.servers)
        if (hello.servers, hello.server) != (ours, self._replication.index):
            error = MismatchError(
                f"this server is number {self._replication.index} of {', '.join(ours)}, and another one has it as"
                f" number {hello.server} of {', '.join(hello.servers)}."
                " HINT: give every memory server the same --box, in the same order"
            )
            send_message(connection, failure_of(error), Status.FAILED)
            raise error
        send_message(connection, self._run)

    def stop(self) -> None:
        """End what waits, and what writes."""
        self._stopping.set()
        for place in self._places:
            place.stop()

    def close(self) -> None:
        """Give everything back."""
        if self._attending.is_alive():
            self._attending.join()
        for place in self._places:
            place.close()
        for peer in self._peers:
            peer.close()
        self._spare.close()

    def _attend(self) -> None:
        """Vote when that is allowed, and know how the others stand: a thread of its own."""
        told = Deadline(_TELL_SECONDS)
        while not self._stopping.is_set():
            self._council.meet()
            if self._voter.votes:
                told = Deadline(_TELL_SECONDS)
            elif told.passed:
                told = Deadline(10 * _TELL_SECONDS)
                missing = [peer.trouble for peer in self._peers if peer.trouble]
                trouble = "; ".join(missing) or _FORGOTTEN
                log.warning("this server cannot vote yet, so no client is served: %s", trouble)
            self._stopping.wait(_MEET_SECONDS if self._voter.votes else _TICK)

    def _ask(self, server: int, request: VoteRequest) -> Vote | Standing:
        return self._peers[server].ask(request)

    def _dial(self, place: int, server: int) -> tuple[Stream, str]:
        """Connect to a server that is to follow this one, and return the connection and that server's run."""
        return dial(self._replication, server, RECORDS, place, self._token, _DIAL_SECONDS, then=STALL_SECONDS)


class _Peer:
    """Another server of the box, as this one asks it for votes. Thread-safe."""

    def __init__(self, replication: Replication, server: int, token: str | None) -> None:
        self.trouble = ""
        """Why it did not answer last time; empty if it did."""
        self._replication = replication
        self._server = server
        self._token = token
        self._connection: Stream | None = None
        self._mutex = threading.Lock()

    def ask(self, request: VoteRequest) -> Vote | Standing:
        """Ask for a vote.

        Args:
            request: to the other server.

        Returns:
            Its answer.

        Raises:
            OSError: it does not answer in time.
        """
        with self._mutex:
            try:
                if self._connection is None:
                    self._connection, _ = dial(self._replication, self._server, VOTES, 0, self._token, _ANSWER_SECONDS)
                send_message(self._connection, request)
                header, payload = receive_frame(self._connection)
                answer = decode(payload, Standing) if header.sequence else decode(payload, Vote)
                self.trouble = ""
                return answer
            except (OSError, ModumError) as error:
                self._close()
                self.trouble = f"memory server {self._replication.servers[self._server]} does not answer: {error}"
                raise OSError(self.trouble) from None

    def close(self) -> None:
        """Close the connection."""
        with self._mutex:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def dial(
    replication: Replication,
    server: int,
    purpose: str,
    place: int,
    token: str | None,
    timeout: float,
    *,
    then: float | None = None,
) -> tuple[Stream, str]:
    """Connect to another server of the box.

    Args:
        replication: the servers.
        server: number of the one to connect to.
        purpose: `VOTES` or `RECORDS`.
        place: of the box.
        token: the job's token.
        timeout: seconds without any progress.
        then: likewise after the handshake; None: the same.

    Returns:
        The connection, and the server's run.

    Raises:
        MismatchError: the server was told another list of servers.
        ModumError, OSError: it cannot be had.
    """
    address = replication.servers[server]
    host, port = parse_address(address)
    session = secrets.token_bytes(SESSION_BYTES)
    endpoint = Endpoint(address, [(host, port)], token, session, timeout, place=place, purpose=purpose)
    connection = endpoint.dial(timeout)
    try:
        _, stream = endpoint.shake_hands(connection, 0, attempt=1, incarnation=b"", acknowledged=0)
        send_message(stream, Hello(list(replication.servers), server))
        header, payload = receive_frame(stream)
        if header.status is not Status.OK:
            raise exception_of(decode(payload, Failure), address)
        tune(connection, timeout if then is None else then)
    except BaseException:
        connection.close()
        raise
    return stream, decode(payload, str)


def send_message(connection: Stream, message: object, status: Status = Status.OK) -> None:
    """Send a message of one server to another; the sequence says whether it is a standing."""
    payload = encode(message)
    header = Header(Op.CALL, int(isinstance(message, Standing)), len(payload), status=status)
    send_frame(connection, header, payload)
