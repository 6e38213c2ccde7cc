"""The machine that the figures are from, and what else it did meanwhile."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import psutil

from modum.units import format_bytes

PACKAGES = ("modum", "numpy", "numba", "torch", "mpi4py", "mpich")


def describe(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """What stands above the table."""
    usable = len(os.sched_getaffinity(0))
    return {
        "date": datetime.datetime.now().astimezone().isoformat(" ", "minutes"),
        "processor": f"{_processor()}, {usable} of {os.cpu_count()} cores",
        "memory": format_bytes(psutil.virtual_memory().total),
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name in packages if (version := _version(name))),
    }


class OtherLoad:
    """How much processor time others took from the moment this was made on."""

    def __init__(self) -> None:
        self._busy, self._all = _processor_seconds()
        self._own = _own_seconds()

    def share(self) -> float:
        """Part of all cores' time that went to other processes, or to other guests of the host; 0 to 1."""
        busy, everything = _processor_seconds()
        others = (busy - self._busy) - (_own_seconds() - self._own)
        return max(0.0, others) / max(everything - self._all, 1e-9)


def _processor_seconds() -> tuple[float, float]:
    """(not idle, altogether), of all cores since the system started."""
    times = psutil.cpu_times()
    everything = sum(times) - times.guest - times.guest_nice  # a guest's time is in the user's as well
    return everything - times.idle - times.iowait, everything


def _own_seconds() -> float:
    """Of this process and of all that it started, those that have ended too."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both again of children that have ended
        except psutil.NoSuchProcess:
            pass  # it has just ended
    return total


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
