"""The network of the cluster; runs inside its namespaces, where it may do what it likes."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SUBNET = "10.77.0."
_SWITCH = "switch0"
BURST_SECONDS = 0.004
"""A link may send so much at once that its rate allows in this time: what the kernel's clock is good for."""
LEAST_BURST = 64 * 1024  # bytes: a packet of segments that the card would cut
QUEUE = "20ms"


def address(host: int) -> str:
    """IP address of a host."""
    return f"{SUBNET}{host + 1}"


def name(host: int) -> str:
    """Name of a host, of its namespace, and of its interface in the switch."""
    return f"host{host}"


@dataclass(frozen=True, slots=True)
class Network:
    """Hosts on one switch, each behind a full-duplex link of ``rate`` bytes per second, or as fast as it goes."""

    hosts: int
    rate: float | None

    def build(self) -> None:
        """Make it all."""
        _run("mount", "-t", "tmpfs", "none", "/run")  # ip keeps its namespaces there
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "name", _SWITCH, "type", "bridge")
        _run("ip", "link", "set", _SWITCH, "up")
        for host in range(self.hosts):
            here, there = name(host), f"{address(host)}/24"
            _run("ip", "netns", "add", here)
            _run("ip", "link", "add", "name", here, "type", "veth", "peer", "name", "eth0", "netns", here)
            _run("ip", "link", "set", here, "master", _SWITCH, "up")
            for what in (("link", "set", "lo", "up"), ("addr", "add", there, "dev", "eth0")):
                _run("ip", "-n", here, *what)
            _run("ip", "-n", here, "link", "set", "eth0", "up")
            if self.rate is not None:
                _run("ip", "netns", "exec", here, "tc", *self._shaper("eth0"))
                _run("tc", *self._shaper(here))

    def _shaper(self, device: str) -> list[str]:
        assert self.rate is not None
        burst = max(LEAST_BURST, round(self.rate * BURST_SECONDS))
        rate = f"{round(8 * self.rate)}bit"
        return ["qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", f"{burst}b", "latency", QUEUE]

    def start(self, host: int, command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process on a host; its output goes to the file ``log``."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [*on(host), *command],
                env={**os.environ, "HOSTNAME": name(host), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def nbytes(self) -> list[int]:
        """Bytes that every host has sent so far, in the order of hosts; what stays on a host does not count."""
        sent = {}
        for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
            interface, _, numbers = line.partition(":")
            sent[interface.strip()] = int(numbers.split()[0])  # what the switch received
        return [sent[name(host)] for host in range(self.hosts)]


def on(host: int) -> list[str]:
    """What to put before a command that is to run on a host."""
    setting = 'hostname "$0" && exec "$@"'
    return ["ip", "netns", "exec", name(host), "unshare", "--uts", "sh", "-c", setting, name(host)]


def _run(*command: str) -> None:
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)}: {finished.stderr.strip()}")
