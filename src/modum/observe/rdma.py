"""Find what this machine has for the transport `rdma`, and what it lacks."""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from modum.box.rdma import binding, devices, ucx
from modum.units import format_bytes
from modum.waiting import Deadline

__all__ = ["PortReport", "RdmaReport", "look_at_rdma", "look_at_ucx", "why_not_read"]

_SHOWN_GIDS: Final = 2
_WAIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PortReport:
    """A port of an RDMA device."""

    name: str
    state: str
    link: str
    interface: str
    gids: list[str]
    trouble: str | None
    """Why no memory could be read through it; None if it could, or if the port is inactive or UCX is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RdmaReport:
    """Devices, the library that drives them, and how much memory may be registered."""

    ports: list[PortReport]
    ucx: str | None
    """Version of the host's UCX, if it can be loaded."""
    ucx_modules: list[str]
    """The modules it was built with; `ib` drives RDMA devices, `cuda` moves GPU memory."""
    ucx_trouble: str | None
    locked_memory_bytes: int | None
    """None means no limit."""

    def lines(self) -> list[tuple[str, str, str]]:
        """Return (topic, finding, trouble) for people; a machine without a device has no trouble."""
        if not self.ports:
            return []
        limit = self.locked_memory_bytes
        return [
            *(
                (
                    f"rdma {port.name}",
                    f"{port.state}, {port.link}"
                    + (f", interface {port.interface}" if port.interface else "")
                    + f", {len(port.gids)} GIDs: {', '.join(port.gids[:_SHOWN_GIDS])}",
                    port.trouble or ("" if port.state == "ACTIVE" else f"not active: {_how_to_activate(port)}"),
                )
                for port in self.ports
            ),
            (
                "ucx",
                f"{self.ucx} with {', '.join(self.ucx_modules)}" if self.ucx else "cannot be used",
                self.ucx_trouble or "",
            ),
            (
                "registered memory",
                "any amount" if limit is None else f"at most {format_bytes(limit)}",
                ""
                if limit is None
                else "RDMA registers whole buffers: raise it with `ulimit -l unlimited`, or LimitMEMLOCK=infinity in "
                "the systemd unit of the server (or of slurmd)",
            ),
        ]


def look_at_rdma() -> RdmaReport:
    """Examine the devices; if there are any, load UCX and read a little memory through each active one."""
    found = devices.ports()
    version, modules, trouble = look_at_ucx() if found else (None, [], None)
    usable = version is not None and "ib" in modules
    return RdmaReport(
        ports=[
            PortReport(
                name=port.name,
                state=port.state,
                link=port.link,
                interface=port.interface,
                gids=port.gids(),
                trouble=why_not_read(port.name) if usable and port.name in devices.rails() else None,
            )
            for port in found
        ],
        ucx=version,
        ucx_modules=modules,
        ucx_trouble=trouble,
        locked_memory_bytes=devices.locked_memory_limit(),
    )


def look_at_ucx() -> tuple[str | None, list[str], str | None]:
    """Load the host's UCX, and return its version if that works, the modules that it has, and what is wrong."""
    try:
        version = ".".join(map(str, binding.library().version))
    except binding.UcxError as error:
        return None, [], str(error)
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError as error:
        return version, [], f"which UCX is loaded cannot be seen: {error}"
    libraries = {line.split()[-1] for line in mapped if "libuct.so" in line}
    modules = sorted(
        {
            module.name.removeprefix("libuct_").partition(".")[0]
            for library in libraries
            for module in Path(os.path.realpath(library)).parent.glob("ucx/libuct_*.so*")
        }
    )
    return version, modules, None if "ib" in modules else f"this UCX cannot drive RDMA devices: {binding.INSTALL}"


def why_not_read(device: str) -> str | None:
    """Connect a device with itself and read memory through it; return why that failed, or None."""
    source, target = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    try:
        with ExitStack() as stack:
            context = ucx.Context(device)
            stack.callback(context.close)
            memory = context.register(source.ctypes.data, source.size)
            stack.callback(memory.close)
            near, far = context.worker(), context.worker()
            for worker in (near, far):
                stack.callback(worker.close)
            endpoint = near.connect(far.address())
            try:
                key = endpoint.unpack(memory.key())
                request = endpoint.get(target, target.ctypes.data, target.size, source.ctypes.data, key)
                came = _wait(request, near, far)
            finally:
                if not endpoint.close():
                    stack.pop_all()  # an operation in there never ends
    except binding.UcxError as error:
        return f"UCX cannot use it: {error} (HINT: UCX_IB_GID_INDEX chooses another GID; `modum doctor` shows them)"
    if not came:
        return f"nothing came through it in {_WAIT_SECONDS:g} s"
    return None if (source == target).all() else "other bytes came than were sent"


def _wait(request: ucx.Request, *workers: ucx.Worker) -> bool:
    deadline = Deadline(_WAIT_SECONDS)
    while not request.done():
        for worker in workers:
            worker.progress()
        if deadline.passed:
            return False
    return True


def _how_to_activate(port: PortReport) -> str:
    if port.link.startswith("InfiniBand"):
        return "check the cable, and that a subnet manager runs (opensm)"
    return f"bring its interface up: ip link set {port.interface or 'INTERFACE'} up"
