"""Bring the workers that a cluster's launcher started together in one box."""

import os
import socket
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from modum.box import new_token
from modum.box.server.process import ServerProcesses
from modum.box.sockets import local_host, parse_address
from modum.cluster import credentials
from modum.cluster.environment import ClusterEnvironment, integer_variable
from modum.cluster.interfaces import (
    INTERFACE_VARIABLE,
    Interface,
    chosen_interface,
    host_interfaces,
    interface_to,
    interface_to_box,
    route_source,
)
from modum.cluster.ports import free_port
from modum.cluster.registration import host_name
from modum.cluster.rendezvous import LauncherRendezvous
from modum.errors import MismatchError, ModumError
from modum.units import count, parse_bytes

__all__ = ["Bootstrap"]

_DEFAULT_MEMORY: Final = "8GiB"
_LOOPBACK: Final = Interface("lo", "127.0.0.1", 8)

Answer = TypeVar("Answer", bound="_Answer")


class _Answer(msgspec.Struct, kw_only=True):
    problem: str = ""
    """Why this worker cannot continue; then none does."""


class _Hello(_Answer, kw_only=True):
    rank: int
    world_size: int
    local_rank: int
    group_size: int
    group_is_host: bool
    job: str
    machine: str
    """The kernel and network namespace: equal for workers that reach each other over loopback."""
    host: str
    interfaces: list[Interface]
    chosen: bool
    """Whether the user named the interface."""
    token: str | None
    """Rank 0's token, if it made one for the job; a token that users set is never sent."""
    has_token: bool
    """Whether MODUM_TOKEN is in this worker's environment."""
    box: list[str]

    def __repr__(self) -> str:  # without the token
        return f"_Hello(rank={self.rank}, host={self.host!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("rank", self.rank), ("host", self.host)]


class _Offer(_Answer, kw_only=True):
    servers: list[str]
    interface: str
    store: tuple[str, int] | None
    """Where the first member of a group will keep the group's store of torch.distributed."""


class Bootstrap:
    """What the workers of a job agreed on before joining their box, and the memory servers that this one runs.

    All workers go through the same rounds, and one that cannot continue tells the others, so that all fail at once
    with its reason.

    Args:
        place: this worker's place.
        rendezvous: the rendezvous of all workers.

    Attributes:
        servers: addresses of the box's servers.
        token: the box's token.
        address: where the other workers reach this host.
        interface: name of the network interface that has this address; empty if the job is on one host.
        hosted: the memory servers that this worker runs for its host, if any.
        master: where the members of this worker's group can keep a store of torch.distributed; None in a group of one.

    Raises:
        MismatchError: world size, group size or placement do not fit together.
        DeadlineError: a worker did not come.
        ModumError: a worker cannot continue. In each case no server is left.
    """

    def __init__(self, place: ClusterEnvironment, rendezvous: LauncherRendezvous) -> None:
        self._place = place
        self._rendezvous = rendezvous
        self.hosted: ServerProcesses | None = None
        self._hellos = self._gather(_hello(place), _Hello)
        _check(self._hellos)
        self.token = place.token or self._hellos[0].token
        self.servers = place.box_servers
        try:
            self._offers = self._gather(self._offer(), _Offer)
            self.servers = self.servers or tuple(server for offer in self._offers for server in offer.servers)
            self.address, self.interface = self._own_address()
            self.master = self._offers[place.rank - place.group_rank].store
        except BaseException:
            self.close()
            raise

    def agree(self, problem: Exception | None) -> None:
        """Check in a last round that no worker has a problem.

        Args:
            problem: what went wrong in this worker, or None.

        Raises:
            Exception: this worker's own `problem`.
            ModumError: the first problem of another worker.
        """
        self._gather(_Answer(problem="" if problem is None else _describe(problem)), _Answer, problem)

    def unreachable(self, error: ModumError) -> ModumError:
        """Return the error for a server of the box that this worker cannot reach, with the places it tried from."""
        me = self._hellos[self._place.rank]
        ways = ", ".join(
            f"{server} from {route_source(parse_address(server)[0]) or 'no address (there is no route)'}"
            for server in self.servers
        )
        what = str(error).partition("\nHINT: ")[0]
        return ModumError(
            f"{me.host} cannot reach the box: {what}\n"
            f"tried {ways}; network interfaces here: {', '.join(map(str, me.interfaces)) or 'none'}\n"
            "HINT: does a firewall close these ports? Or name the interface that joins the hosts: "
            f"export {INTERFACE_VARIABLE}=ib0"
        )

    def close(self) -> None:
        """Stop the servers of this host; closing twice does nothing."""
        if self.hosted is not None:
            self.hosted.close()

    def report(self) -> str:
        """Return a line for people: which workers joined, and over which network."""
        place = self._place
        hosts = sum(hello.local_rank == 0 for hello in self._hellos)
        where = [
            f"{server} ({self._hellos[rank].host}, {offer.interface})"
            for rank, offer in enumerate(self._offers)
            for server in offer.servers
        ]
        whole = " (the host)" if place.group_is_host and place.group_size > 1 else ""
        return (
            f"modum: {count(place.world_size, 'worker')} on {count(hosts, 'host')} (started by {place.name}), "
            f"{count(place.groups, 'group')} of {place.group_size}{whole}; "
            f"{count(len(self.servers), 'memory server')}: {', '.join(where or self.servers)}"
        )

    @property
    def _one_machine(self) -> bool:
        return len({hello.machine for hello in self._hellos}) == 1

    def _offer(self) -> _Offer:
        """Start this host's servers, if this worker is the one to do so."""
        place = self._place
        starts = place.local_rank == 0
        leads = place.group_size > 1 and place.group_rank == 0
        if not starts and not leads and place.rank != 0:
            return _Offer(servers=[], interface="", store=None)
        try:
            store = None
            if leads:
                address, _ = self._own_address()
                store = (address, free_port(address))
            if not starts and place.rank != 0:
                return _Offer(servers=[], interface="", store=store)
            interface = self._interface()
            if starts and not self.servers:
                assert self.token is not None
                number = integer_variable("MODUM_SERVERS", "set it to the number of memory servers on each host", 1)
                memory = parse_bytes(os.environ.get("MODUM_MEMORY", _DEFAULT_MEMORY))
                if number < 1:
                    raise ValueError(f"MODUM_SERVERS ({number}) must be at least 1")
                encrypt = credentials.encrypts()
                if encrypt and not place.token:
                    raise ValueError(
                        f"{credentials.ENCRYPT_VARIABLE} needs a token of yours: one that rank 0 makes would go to the"
                        " other workers as it is\nHINT: before the launcher: export MODUM_TOKEN="
                        "$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
                    )
                self.hosted = ServerProcesses(
                    memory,
                    count=number,
                    host=interface.address,
                    environment=credentials.child_environment(self.token),
                    encrypt=encrypt,
                )
            servers = self.hosted.addresses if self.hosted else []
            return _Offer(servers=servers, interface=interface.name, store=store)
        except (ModumError, ValueError, OSError) as error:
            return _Offer(servers=[], interface="", store=None, problem=_describe(error))

    def _interface(self) -> Interface:
        """Return the interface by which the other hosts reach this one."""
        if self._one_machine:
            return _LOOPBACK
        me = self._hellos[self._place.rank]
        if me.chosen:
            return me.interfaces[0]
        first = self._hellos[0]
        with_first = me.machine == first.machine
        peer = next(hello for hello in self._hellos if hello.machine != me.machine) if with_first else first
        if self._rendezvous.address is not None:
            # others have reached this address: it is known to work
            proven = socket.gethostbyname(self._rendezvous.address)
            source = proven if with_first else route_source(proven)
            for own in me.interfaces:
                if own.address == source:
                    return own
        return interface_to(peer.host, [each.address for each in peer.interfaces], me.interfaces)

    def _own_address(self) -> tuple[str, str]:
        if self._one_machine:
            return _LOOPBACK.address, ""
        try:
            interface = self._interface()
        except ModumError:  # a host whose servers are elsewhere may have no address to announce
            interface = interface_to_box(self.servers)
        return interface.address, interface.name

    def _gather(self, answer: Answer, kind: type[Answer], own: Exception | None = None) -> list[Answer]:
        texts = self._rendezvous.gather(msgspec.json.encode(answer).decode())
        answers = [msgspec.json.decode(text, type=kind) for text in texts]
        if own is not None:
            raise own
        for rank, each in enumerate(answers):
            if each.problem:
                raise ModumError(each.problem if rank == self._place.rank else f"rank {rank}: {each.problem}")
        return answers


def _hello(place: ClusterEnvironment) -> _Hello:
    problem, interfaces = "", host_interfaces()
    choice = os.environ.get(INTERFACE_VARIABLE)
    if choice:
        try:
            interfaces = [chosen_interface(choice)]
        except ValueError as error:
            problem = _describe(error)
    new = place.rank == 0 and not place.token and not place.box_servers
    return _Hello(
        rank=place.rank,
        world_size=place.world_size,
        local_rank=place.local_rank,
        group_size=place.group_size,
        group_is_host=place.group_is_host,
        job=place.job,
        machine=local_host() or socket.gethostname(),
        host=host_name(),
        interfaces=interfaces,
        chosen=bool(choice),
        token=new_token() if new else None,
        has_token=place.token is not None,
        box=list(place.box_servers),
        problem=problem,
    )


def _check(hellos: Sequence[_Hello]) -> None:
    """Raise `MismatchError` unless these are the workers of one job."""
    first = hellos[0]
    for rank, each in enumerate(hellos):
        for what, name in (
            ("rank", "rank"),
            ("world size", "world_size"),
            ("group size", "group_size"),
            ("name of the job (MODUM_JOB)", "job"),
            ("box (MODUM_BOX)", "box"),
            ("token (MODUM_TOKEN, whether there is one)", "has_token"),
        ):
            expected, found = (rank if name == "rank" else getattr(first, name)), getattr(each, name)
            if expected != found:
                raise MismatchError(
                    f"rank {rank} on {each.host} has {what} {found!r}, not {expected!r} as rank 0 on {first.host}\n"
                    + (
                        "HINT: hosts have different numbers of workers; export MODUM_GROUP_SIZE=1, or one that fits"
                        if name == "group_size" and first.group_is_host
                        else "HINT: start all workers by one command, with the same environment variables"
                    )
                )
    if first.group_is_host:
        for each in hellos:
            leader = hellos[each.rank // each.group_size * each.group_size]
            if leader.machine != each.machine:
                raise MismatchError(
                    f"rank {leader.rank} is on {leader.host} and rank {each.rank} on {each.host}, so the "
                    f"{each.group_size} workers of a host have no consecutive ranks and cannot be a group\n"
                    "HINT: fill one host after the other (mpirun --map-by slot, srun --distribution=block), "
                    "or export MODUM_GROUP_SIZE=1"
                )


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
