"""Let the tasks of a Slurm step meet at its first host, at a port derived from the job's number.

There, rank 0 hands out a note to every caller: where its small box listens and, sealed by MUNGE for the user of
the job, the token. With MODUM_TOKEN in every worker's environment the note has no token and needs no seal: the box
accepts clients that prove to hold it, and proves the same to them.
"""

import contextlib
import socket
import subprocess
import threading
from typing import Any, Final

import msgspec

from modum.box import Box, Server, new_token
from modum.box.sockets import format_address
from modum.cluster.interfaces import route_source
from modum.cluster.munge import MungeError, seal, unseal
from modum.cluster.rendezvous import BoxRendezvous, LauncherRendezvous
from modum.errors import AuthenticationError, ConnectionLostError, DeadlineError, ModumError
from modum.waiting import poll

__all__ = ["meet", "ports_of"]

_FIRST_PORT: Final = 20000  # below those that Linux gives to outgoing connections
_PORTS: Final = 8  # neighbours of one another, so that jobs whose numbers give the same port can both meet
_WINDOWS: Final = 1250
_MEMORY: Final = 64 << 20
_PAUSE: Final = 0.1
_TRY_SECONDS: Final = 2.0
_LONGEST_NOTE: Final = 16384
_TOKEN_HINT: Final = (
    "HINT: before srun: export MODUM_TOKEN=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
)


class _Note(msgspec.Struct):
    step: str
    port: int
    token: str | None

    def __repr__(self) -> str:  # without the token
        return f"_Note(step={self.step!r}, port={self.port})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("step", self.step), ("port", self.port)]


def ports_of(step: str) -> range:
    """Return the ports at which the workers of the step `job.step` look for rank 0."""
    job, _, number = step.partition(".")
    window = (int(job) * 31 + int(number)) % _WINDOWS
    return range(_FIRST_PORT + window * _PORTS, _FIRST_PORT + (window + 1) * _PORTS)


def meet(
    *, rank: int, world_size: int, step: str, first_host: str, token: str | None, timeout: float
) -> LauncherRendezvous:
    """Meet the other tasks of a step.

    Args:
        rank: this worker's rank.
        world_size: number of workers.
        step: `job.step`.
        first_host: Slurm's name of the host where rank 0 runs.
        token: the token in all workers' environment, if there is one.
        timeout: seconds that the first worker waits for the last one.

    Returns:
        The place to meet.

    Raises:
        DeadlineError: rank 0 could not be reached in time.
        ModumError: there is no secret to share, no free port, or no address of the first host.
    """
    if token is None:
        try:
            seal(b"")
        except MungeError as error:
            raise ModumError(
                f"srun gave the workers no secret to share, and there is no way to send one safely: {error}\n"
                + _TOKEN_HINT
            ) from None
    if rank == 0:
        return _Host(world_size, step, first_host, token, timeout)
    host = _address_of(first_host)
    ports = ports_of(step)
    reasons: dict[int, str] = {}

    def reach() -> Box | None:
        reasons.clear()
        for port in ports:
            try:
                note = _ask(host, port, step, sealed=token is None)
                return Box.connect(
                    format_address(host, note.port), token=token or note.token, transport="tcp", timeout=timeout
                )
            except (OSError, ModumError) as error:
                reasons[port] = str(error)
        return None

    def unreached() -> DeadlineError:
        return DeadlineError(
            f"rank {rank} on {socket.gethostname()} (address {route_source(host)}) did not reach rank 0 on "
            f"{first_host} ({host}, ports {ports[0]} to {ports[-1]}) within {timeout:g} s: "
            f"{'; '.join(sorted(set(reasons.values())))}\n"
            "HINT: does a firewall between the hosts close these ports? Does rank 0's output have an error?"
        )

    box = poll(reach, timeout=timeout, every=_PAUSE, error=unreached)
    assert box is not None
    return BoxRendezvous(box, rank, world_size, timeout, host)


def _ask(host: str, port: int, step: str, *, sealed: bool) -> _Note:
    with socket.create_connection((host, port), timeout=_TRY_SECONDS) as connection:
        data = b""
        while (piece := connection.recv(4096)) and len(data) < _LONGEST_NOTE:
            data += piece
    if sealed:
        data = unseal(data)
    try:
        note = msgspec.json.decode(data, type=_Note)
    except msgspec.DecodeError:
        raise AuthenticationError("somebody else listens there") from None
    if note.step != step:
        raise ConnectionLostError(f"the job {note.step} meets there")
    return note


def _address_of(node: str) -> str:
    """Return the address of a host of the cluster: by its name, or as Slurm itself reaches it."""
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


class _Host(LauncherRendezvous):
    """Rank 0's side: the small box, and a thread that hands out notes."""

    def __init__(self, world_size: int, step: str, first_host: str, token: str | None, timeout: float) -> None:
        self.address = _address_of(first_host)
        secret = token or new_token()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(_listen(step))
            # all of the host's addresses, as it is not yet known which one the others can reach
            server = stack.enter_context(Server("0.0.0.0", memory=_MEMORY, token=secret))  # noqa: S104
            port = int(server.address.rpartition(":")[2])
            note = msgspec.json.encode(_Note(step, port, None if token else secret))
            desk = threading.Thread(
                target=_hand_out, args=(listener, note, token is None), name="modum-rendezvous", daemon=True
            )
            desk.start()
            stack.callback(desk.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            box = Box.connect(f"127.0.0.1:{port}", token=secret, transport="tcp", timeout=timeout)
            self._inside = stack.enter_context(BoxRendezvous(box, 0, world_size, timeout, self.address))
            self._stack = stack.pop_all()

    def gather(self, text: str) -> list[str]:
        return self._inside.gather(text)

    def close(self) -> None:
        self._stack.close()


def _hand_out(listener: socket.socket, note: bytes, sealed: bool) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # closed
        with connection, contextlib.suppress(OSError, MungeError):
            connection.settimeout(_TRY_SECONDS)
            # a credential can be opened once on each host, so every worker gets its own
            connection.sendall(seal(note) if sealed else note)


def _listen(step: str) -> socket.socket:
    ports = ports_of(step)
    for port in ports:
        with contextlib.suppress(OSError):
            return socket.create_server(("", port))
    raise ModumError(
        f"no port from {ports[0]} to {ports[-1]} is free on {socket.gethostname()}, where the workers of {step} "
        "would meet\nHINT: other jobs take them; name an existing box instead: MODUM_BOX=host:port and MODUM_TOKEN"
    )
