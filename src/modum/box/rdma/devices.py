"""The RDMA devices of this machine, from what the kernel shows of them; loads no library."""

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CLASS: Final = Path("/sys/class/infiniband")
NODES: Final = Path("/dev/infiniband")
DEVICES_VARIABLE: Final = "UCX_NET_DEVICES"
_EMPTY_GID: Final = "0000:0000:0000:0000:0000:0000:0000:0000"


@dataclass(frozen=True, slots=True)
class Port:
    """One port of one device."""

    name: str
    """As UCX names it: `mlx5_0:1`."""
    state: str
    """`ACTIVE` if it can carry anything."""
    directory: Path
    """Where the kernel shows it."""

    @property
    def link(self) -> str:
        """Link layer, "InfiniBand" or "Ethernet" (RoCE), and its rate."""
        return f"{_line(self.directory / 'link_layer')} {_line(self.directory / 'rate')}"

    @property
    def interface(self) -> str:
        """Name of the network interface that it shares, or nothing."""
        device = self.directory.parent.parent
        return ", ".join(path.name for path in sorted(device.glob("device/net/*"))) or _line(device / "parent")

    def gids(self) -> list[str]:
        """Return its addresses. The table may have a thousand places: this takes a moment."""
        places = sorted(self.directory.glob("gids/*"), key=lambda path: int(path.name))
        return [gid for gid in map(_line, places) if gid and gid != _EMPTY_GID]


def ports() -> list[Port]:
    """Return all ports of all devices, by name."""
    return [
        Port(f"{path.parent.parent.name}:{path.name}", _line(path / "state").partition(": ")[2], path)
        for path in sorted(CLASS.glob("*/ports/*"))
    ]


def rails() -> list[str]:
    """Return the active ports that are used, in order: those of UCX_NET_DEVICES if it is set, else all.

    The k-th of a client is connected with the k-th of a server.
    """
    active = [port.name for port in ports() if port.state == "ACTIVE"]
    chosen = os.environ.get(DEVICES_VARIABLE, "all")
    return active if chosen == "all" else [name for name in chosen.split(",") if name in active]


def why_no_rails() -> str | None:
    """Return why RDMA cannot be used here and what to do about it; None if there are rails and rights to use them."""
    if platform.machine() != "x86_64":
        return f"one-sided reads rely on the order of stores of x86-64, this is {platform.machine()}"
    known = ports()
    if not known:
        return "this machine has no RDMA device"
    if not rails():
        listed = ", ".join(f"{port.name} is {port.state or 'in an unknown state'}" for port in known)
        wish = os.environ.get(DEVICES_VARIABLE)
        return f"no active port{f' among {DEVICES_VARIABLE}={wish}' if wish else ''}: {listed}"
    nodes = sorted(NODES.glob("uverbs*"))
    if not nodes:
        return f"there is no {NODES}/uverbs0 (HINT: modprobe ib_uverbs; for a container: --device={NODES})"
    if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return f"{nodes[0]} may not be opened by this user (HINT: chmod 666 {NODES}/*, as rdma-core's udev rules do)"
    return None


def locked_memory_limit() -> int | None:
    """Return how many bytes this process may register with an RDMA device; None means any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # entries of the GID table that are not in use cannot be read
