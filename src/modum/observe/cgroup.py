"""Read the limits that the control groups of a container or batch system set (cgroups(7), both versions)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "read_limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The tightest limits on this process; None where there is none."""

    cores: float | None
    """Processor time, in seconds per second."""
    memory: int | None
    """Memory, in bytes."""


def read_limits(root: Path = Path("/")) -> Limits:
    """Return the limits in force for this process, on a machine whose files are below `root`."""
    cores, memory = [], []
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []  # `doctor` says which files cannot be read
    for line in groups:
        _, controllers, path = line.split(":", 2)
        for group in _upwards(root / "sys/fs/cgroup", controllers, path):
            quota = _numbers(group / "cpu.max")
            if not quota:
                quota = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
            if len(quota) == 2 and quota[0] > 0:
                cores.append(quota[0] / quota[1])
            memory += _numbers(group / "memory.max") or _numbers(group / "memory.limit_in_bytes")
    # Version 1 expresses "no limit" by the largest number of whole pages.
    memory = [limit for limit in memory if limit < 2**62]
    return Limits(min(cores, default=None), min(memory, default=None))


def _upwards(mount: Path, controllers: str, path: str) -> Iterator[Path]:
    """Yield the group's directory and its parents; a container may not see the inner ones."""
    # Version 2 names no controllers; where both versions are mounted it lies in "unified".
    tops = [mount / name for name in controllers.split(",")] if controllers else [mount, mount / "unified"]
    for top in tops:
        directory = top / path.lstrip("/")
        while directory.is_relative_to(top):
            yield directory
            directory = directory.parent


def _numbers(file: Path) -> list[int]:
    """Return the integers in a file; none if it is missing, or says that there is no limit."""
    try:
        words = file.read_text().split()
    except OSError:
        return []
    return [] if "max" in words else [int(word) for word in words]
