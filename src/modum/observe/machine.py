"""Examine this machine for Modum: look up, try out and measure, in a few seconds."""

import importlib.metadata
import os
import platform
import resource
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from modum.box.memory.trial import shared_memory_trouble
from modum.box.protocol.limits import DEFAULT_PORT
from modum.box.transport import TRANSPORTS
from modum.observe.cgroup import read_limits
from modum.observe.rdma import RdmaReport, look_at_rdma

__all__ = ["Report", "examine", "loopback_bandwidth", "memory_bandwidth", "why_not_listen"]

PACKAGES: Final = ("numpy", "numba", "msgspec", "psutil", "typer", "rich", "torch", "tensorflow", "keras", "mpi4py")

SYSTEM_FILES: Final = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self/cgroup",
    "/proc/self/fd",
    "/proc/self/maps",
    "/proc/self/ns/net",
    "/proc/sys/kernel/random/boot_id",
)
"""What Modum reads of the system."""

_REPEATS: Final = 5
_TIMEOUT: Final = 2.0
"""Timeout of a silent loopback connection, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `examine` found. A reason that is None means that nothing is wrong."""

    modum: str
    python: str
    system: str
    processor: str
    packages: dict[str, str | None]
    """Version, or None if the package is not installed."""
    cores_online: int
    cores_allowed: int
    """Cores that this process may run on."""
    cores_quota: float | None
    """Processor seconds per second that the control group allows."""
    memory_total_bytes: int
    memory_available_bytes: int
    memory_quota_bytes: int | None
    memory_bytes_per_second: float
    """Bytes per second read and written by one thread."""
    memory_all_cores_bytes_per_second: float
    """Bytes per second read and written by a thread on every usable core at once."""
    shared_memory_trouble: str | None
    descriptors_soft: int
    descriptors_hard: int
    transports: dict[str, str | None]
    """Why the transport cannot be used here."""
    rdma: RdmaReport
    port: int
    addresses: dict[str, str | None]
    """Why a server cannot listen on `port` at this address."""
    loopback_bytes_per_second: float
    """Bytes per second of a TCP connection to this machine itself, one thread at each end; 0 if it failed."""
    loopback_trouble: str | None
    unreadable: list[str]
    """Files of the system that this process cannot read, so that their values are missing or come from elsewhere."""

    @property
    def usable_cores(self) -> int:
        """Number of threads that can run at the same time."""
        return _usable_cores(self.cores_allowed, self.cores_quota)


def examine(port: int = DEFAULT_PORT) -> Report:
    """Examine this machine for about two seconds, with the memory and the cores that are free now.

    Args:
        port: the TCP port that a memory server would listen on.

    Returns:
        What was found, tried out and measured.
    """
    limits = read_limits()
    loopback, loopback_trouble = loopback_bandwidth()
    allowed = len(os.sched_getaffinity(0))
    total, available = _memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    array_bytes = min(256 * 2**20, available // 8, (limits.memory or total) // 8)
    return Report(
        modum=importlib.metadata.version("modum"),
        python=platform.python_version(),
        system=platform.platform(),
        processor=_processor(),
        packages={name: _version(name) for name in PACKAGES},
        cores_online=os.cpu_count() or allowed,
        cores_allowed=allowed,
        cores_quota=limits.cores,
        memory_total_bytes=total,
        memory_available_bytes=available,
        memory_quota_bytes=limits.memory,
        memory_bytes_per_second=memory_bandwidth(1, array_bytes),
        memory_all_cores_bytes_per_second=memory_bandwidth(_usable_cores(allowed, limits.cores), array_bytes),
        shared_memory_trouble=shared_memory_trouble(),
        descriptors_soft=soft,
        descriptors_hard=hard,
        transports={name: transport.why_not() for name, transport in TRANSPORTS.items()},
        rdma=look_at_rdma(),
        port=port,
        addresses={address: why_not_listen(address, port) for address in _addresses()},
        loopback_bytes_per_second=loopback,
        loopback_trouble=loopback_trouble,
        unreadable=[path for path in SYSTEM_FILES if not os.access(path, os.R_OK)],
    )


def memory_bandwidth(threads: int, nbytes: int) -> float:
    """Measure how fast threads add one array to another.

    Args:
        threads: number of threads.
        nbytes: bytes of each of the two arrays.

    Returns:
        Bytes read and written per second; the median of five.
    """
    elements = max(nbytes // 4, threads)
    target, x = np.zeros(elements, np.float32), np.ones(elements, np.float32)
    parts = list(zip(np.array_split(target, threads), np.array_split(x, threads), strict=True))
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            start = time.perf_counter()
            list(pool.map(lambda part: np.add(part[0], part[1], out=part[0]), parts))
            seconds.append(time.perf_counter() - start)
    return 3 * target.nbytes / statistics.median(seconds)


def loopback_bandwidth(nbytes: int = 256 * 2**20) -> tuple[float, str | None]:
    """Return the bytes per second of a TCP connection to this machine itself, or 0 and the reason why it failed."""
    buffer = bytearray(2**20)
    try:
        with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(_TIMEOUT)
            sending = pool.submit(_send, listener.getsockname(), nbytes)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_TIMEOUT)
                first = received = connection.recv_into(buffer)
                start = time.perf_counter()
                while count := connection.recv_into(buffer):
                    received += count
                seconds = time.perf_counter() - start
            sending.result()
    except OSError as error:
        return 0.0, str(error)
    return (received - first) / seconds, None


def _send(address: tuple[str, int], nbytes: int) -> None:
    block = bytes(2**20)
    with socket.create_connection(address, timeout=_TIMEOUT) as connection:
        for _ in range(nbytes // len(block)):
            connection.sendall(block)


def why_not_listen(address: str, port: int) -> str | None:
    """Return why no server can listen on `port` at the IPv4 `address`; None if one can."""
    try:
        with socket.create_server((address, port)):
            return None
    except OSError as error:
        return f"{os.strerror(error.errno or 0)}: choose another with `modum server --port`"


def _addresses() -> list[str]:
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family is socket.AF_INET
    ]
    return sorted(found, key=lambda address: (not address.startswith("127."), address))


def _usable_cores(allowed: int, quota: float | None) -> int:
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> tuple[int, int]:
    """Return how many bytes this machine has, and how many are free."""
    try:
        memory = psutil.virtual_memory()
        return memory.total, memory.available
    except OSError:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return platform.machine()
