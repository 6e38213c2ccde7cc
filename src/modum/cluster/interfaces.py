"""Choose the address that a host announces to other hosts."""

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import psutil

from modum.box.sockets import parse_address
from modum.errors import ModumError

__all__ = [
    "INTERFACE_VARIABLE",
    "Interface",
    "chosen_interface",
    "host_interfaces",
    "interface_to",
    "interface_to_box",
    "route_source",
]

INTERFACE_VARIABLE: Final = "MODUM_INTERFACE"
_OF_CONTAINERS: Final = re.compile(r"docker\d*|br-[0-9a-f]+|veth.*|virbr.*|cni\d*|cbr\d*|lxc.*|lxdbr.*|podman\d*")
"""Bridges, and their ends, that lead only to containers or virtual machines of this host."""
_ANYWHERE: Final = ("192.0.2.1", "2001:db8::1")  # reserved for documentation: nothing is sent there


class Interface(msgspec.Struct, frozen=True):
    """One address of this host: the name of its network interface, the address, and its network's prefix length."""

    name: str
    address: str
    prefix: int

    def __str__(self) -> str:
        return f"{self.address} ({self.name})"

    def is_next_to(self, address: str) -> bool:
        """Return whether `address` is in the network of this interface, with no router between."""
        network = ipaddress.ip_network(f"{self.address}/{self.prefix}", strict=False)
        return ipaddress.ip_address(address) in network


def host_interfaces() -> list[Interface]:
    """Return the interfaces that may be announced to other hosts: the default route's first, IPv4 before IPv6.

    Loopback and link-local addresses and the bridges of containers are left out.
    """
    status = psutil.net_if_stats()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        if _OF_CONTAINERS.fullmatch(name) or (name in status and not status[name].isup):
            continue
        for each in addresses:
            if each.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(each.address.partition("%")[0])
            if not (address.is_loopback or address.is_link_local):
                found.append(Interface(name, str(address), _prefix(each.netmask, address)))
    default = [route_source(address) for address in _ANYWHERE]
    return sorted(found, key=lambda each: (":" in each.address, each.address not in default, each.name))


def chosen_interface(choice: str) -> Interface:
    """Return the interface that the user named, by its name or its address.

    Args:
        choice: name or address of an interface of this host.

    Returns:
        The interface.

    Raises:
        ValueError: there is none, or it has no address; the message lists the existing ones.
    """
    every = [
        Interface(name, each.address.partition("%")[0], 32)
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6)
    ]
    fitting = [each for each in every if choice in (each.name, each.address)]
    if not fitting:
        there = ", ".join(map(str, host_interfaces())) or "none but loopback"
        raise ValueError(
            f"{choice!r} is no network interface of {socket.gethostname()}: there are {there}\n"
            f"HINT: name one of these, by {INTERFACE_VARIABLE} or --interface, or none: the route decides then"
        )
    return min(fitting, key=lambda each: ":" in each.address)


def interface_to(peer: str, peer_addresses: Iterable[str], own: Sequence[Interface]) -> Interface:
    """Return the interface by which this host reaches the host `peer`, according to its routes.

    Of several addresses of the peer, those in a network of this host come first.

    Args:
        peer: name of the other host, for errors.
        peer_addresses: addresses where it can be reached.
        own: interfaces of this host, from `host_interfaces()`.

    Returns:
        One of `own`.

    Raises:
        ModumError: no route leads from one of `own` to one of these addresses.
    """
    tried = []
    addresses = list(peer_addresses)
    for address in sorted(addresses, key=lambda address: not any(each.is_next_to(address) for each in own)):
        source = route_source(address)
        for each in own:
            if each.address == source:
                return each
        tried.append(f"{address} from {source or 'nowhere'}")
    raise ModumError(
        f"{socket.gethostname()} has no network interface that leads to {peer}: tried {', '.join(tried) or 'none'}; "
        f"own addresses: {', '.join(map(str, own)) or 'none but loopback and container bridges'}\n"
        f"HINT: export {INTERFACE_VARIABLE}=eth0, the interface between the hosts, for every worker"
    )


def interface_to_box(servers: Sequence[str]) -> Interface:
    """Return the interface by which this host reaches memory servers; workers that reach them can reach it there too.

    Args:
        servers: addresses `host:port`.

    Returns:
        The interface that MODUM_INTERFACE names, else that of the route to the first server on another host, or in the
        network; loopback, without a name, if all are reached by loopback.

    Raises:
        ValueError: MODUM_INTERFACE names no interface of this host.
    """
    if choice := os.environ.get(INTERFACE_VARIABLE):
        return chosen_interface(choice)
    for server in servers:
        source = route_source(parse_address(server)[0])
        if source is not None and not ipaddress.ip_address(source).is_loopback:
            return next((each for each in host_interfaces() if each.address == source), Interface("", source, 32))
    return Interface("", "127.0.0.1", 8)


def route_source(address: str) -> str | None:
    """Return the address of this host from which the kernel would send to `address`; None without a route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting a datagram socket sends nothing
        try:
            probe.connect((address, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _prefix(netmask: str | None, address: "ipaddress.IPv4Address | ipaddress.IPv6Address") -> int:
    if netmask is None:
        return address.max_prefixlen
    return int(ipaddress.ip_address(netmask)).bit_count()
