"""How the tasks of a Slurm step come together: at its first host, at a port that follows from the job's number.

There, rank 0 hands out a note to whoever comes: where its small box listens and, sealed by MUNGE for the user of
the job, the token. With MODUM_TOKEN in everybody's environment the note has no token and needs no seal: the box
lets in whoever proves to hold it, and proves the same to them.
"""

import contextlib
import socket
import subprocess
import threading
import time
from typing import Final

import msgspec

from modum.box import Box, Server, new_token
from modum.box.sockets import format_address
from modum.cluster.interfaces import route_source
from modum.cluster.munge import MungeError, seal, unseal
from modum.cluster.rendezvous import BoxRendezvous
from modum.cluster.slurm import Slurm, first_host
from modum.errors import AuthenticationError, ConnectionLostError, DeadlineError, ModumError

__all__ = ["meet", "meeting_ports"]

_FIRST_PORT: Final = 20000  # below those that Linux gives to outgoing connections
_PORTS: Final = 8  # neighbours of one another, so that jobs whose numbers give the same port can both meet
_WINDOWS: Final = 1250
_MEMORY: Final = 64 << 20
_PAUSE: Final = 0.1
_PATIENCE: Final = 2.0  # seconds for one try
_BOX_SECONDS: Final = 30.0
_LONGEST_NOTE: Final = 16384
_TOKEN_HINT: Final = (
    "HINT: before srun: export MODUM_TOKEN=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
)


class _Note(msgspec.Struct):
    step: str
    port: int
    token: str | None


def meeting_ports(step: str) -> range:
    """The ports at which the workers of the step `job.step` look for rank 0."""
    job, _, number = step.partition(".")
    window = (int(job) * 31 + int(number)) % _WINDOWS
    return range(_FIRST_PORT + window * _PORTS, _FIRST_PORT + (window + 1) * _PORTS)


def meet(place: Slurm, seconds: float) -> "BoxRendezvous":
    """Come together; see `ClusterEnvironment.meeting`."""
    if place.token is None:
        try:
            seal(b"")
        except MungeError as error:
            raise ModumError(
                f"{place.name} gave the workers no secret to share, and there is no way to send one safely: {error}\n"
                + _TOKEN_HINT
            ) from None
    if place.rank == 0:
        return _Host(place, seconds)
    host = _address_of(first_host(place.hosts))
    deadline = time.monotonic() + seconds
    while True:
        reasons = {}
        for port in meeting_ports(place.step):
            try:
                note = _ask(host, port, place)
                token = place.token or note.token
                box = Box.connect(format_address(host, note.port), token=token, transport="tcp", timeout=_BOX_SECONDS)
            except (OSError, ModumError) as error:
                reasons[port] = str(error)
                continue
            meeting = BoxRendezvous(box, place.rank, place.world_size, seconds)
            meeting.address = host
            return meeting
        if time.monotonic() > deadline:
            ports = meeting_ports(place.step)
            raise DeadlineError(
                f"rank {place.rank} on {socket.gethostname()} (address {route_source(host)}) did not reach rank 0 on "
                f"{first_host(place.hosts)} ({host}, ports {ports[0]} to {ports[-1]}) within {seconds:g} s: "
                f"{'; '.join(sorted(set(reasons.values())))}\n"
                "HINT: does a firewall between the hosts close these ports? Does rank 0's output have an error?"
            )
        time.sleep(_PAUSE)


def _ask(host: str, port: int, place: Slurm) -> _Note:
    with socket.create_connection((host, port), timeout=_PATIENCE) as connection:
        data = b""
        while (piece := connection.recv(4096)) and len(data) < _LONGEST_NOTE:
            data += piece
    if place.token is None:
        data = unseal(data)
    try:
        note = msgspec.json.decode(data, type=_Note)
    except msgspec.DecodeError:
        raise AuthenticationError("somebody else listens there") from None
    if note.step != place.step:
        raise ConnectionLostError(f"the job {note.step} meets there")
    return note


def _address_of(node: str) -> str:
    """The address of a host of the cluster: by its name, or as Slurm itself reaches it."""
    with contextlib.suppress(OSError):
        return socket.gethostbyname(node)
    try:
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", "node", node], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        shown = str(error)
    fields = dict(field.split("=", 1) for field in shown.split() if "=" in field)
    try:
        return socket.gethostbyname(fields["NodeAddr"])
    except (KeyError, OSError):
        raise ModumError(
            f"the name of the step's first host, {node}, has no address here, and `scontrol show node {node}` "
            "gives none\n"
            "HINT: name an existing box instead: MODUM_BOX=host:port and MODUM_TOKEN"
        ) from None


class _Host(BoxRendezvous):
    """Rank 0's side: the small box, and a thread that hands out notes."""

    def __init__(self, place: Slurm, seconds: float) -> None:
        token = place.token or new_token()
        self._listener = _listen(place)
        # all of the host's addresses: which one the others can reach is not known yet
        self._server = Server("0.0.0.0", memory=_MEMORY, token=token).start()  # noqa: S104
        port = int(self._server.address.rpartition(":")[2])
        self._note = msgspec.json.encode(_Note(place.step, port, None if place.token else token))
        self._sealed = place.token is None
        self._desk = threading.Thread(target=self._serve, name="modum-meeting", daemon=True)
        self._desk.start()
        box = Box.connect(f"127.0.0.1:{port}", token=token, transport="tcp", timeout=_BOX_SECONDS)
        super().__init__(box, place.rank, place.world_size, seconds)
        self.address = _address_of(first_host(place.hosts))

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection, contextlib.suppress(OSError, MungeError):
                connection.settimeout(_PATIENCE)
                # a credential can be opened once on each host, so everybody gets one of his own
                connection.sendall(seal(self._note) if self._sealed else self._note)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._desk.join()
            self._server.close()


def _listen(place: Slurm) -> socket.socket:
    ports = meeting_ports(place.step)
    for port in ports:
        with contextlib.suppress(OSError):
            return socket.create_server(("", port))
    raise ModumError(
        f"no port from {ports[0]} to {ports[-1]} is free on {socket.gethostname()}, where the workers of {place.step} "
        "would meet\nHINT: other jobs take them; name an existing box instead: MODUM_BOX=host:port and MODUM_TOKEN"
    )
