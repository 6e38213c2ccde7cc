"""Runs a case in namespaces of its own, and gives back what was measured."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.processes import ROOT

if TYPE_CHECKING:
    from bench.cluster.case import Case

TOOLS = ("setpriv", "unshare", "ip", "tc", "mount")
NEEDS = {"mpi": "mpi4py", "accumulate": "mpi4py", "box": "torch", "pool": "numpy", "ddp": "torch"}
"""Packages of systems that are not called like them."""
TIMEOUT = 1200.0
"""Seconds beyond the measurement itself: to start everything."""

# setpriv ends unshare with this process, even if it is killed; and unshare ends the first process inside, whose end is
# the end of all the others.
NAMESPACES = [
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"),
]


class ClusterError(RuntimeError):
    """A case could not be run; the message has the last lines of what took part."""


@dataclass(kw_only=True, slots=True)
class Measured:
    """The result of a case. Times are in seconds; `steps` counts local steps of single workers."""

    seconds: float
    """How long the measurement lasted."""
    steps: float
    """Local steps that all workers ended in it; the parts of those at its ends count as parts."""
    efficiency: float
    """Steps per second, of those of as many workers that never wait."""
    step_seconds: float
    """Mean time from the end of a step to the end of the next."""
    compute_seconds: float
    """Mean time of forward and backward pass within it."""
    sent: list[int] = field(default_factory=list)
    """Bytes that each host sent meanwhile."""
    busy: float = 0.0
    """Share of all cores' time that was not idle: above about 0.8 the cores are what is measured."""
    late: float = 0.0
    """Share of steps whose computing took 5 % longer than it should: the cores were not there when needed."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the system itself counts: exchanges, their seconds, the interval."""
    curve: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the first step, test accuracy), where the case has an accuracy."""


def unavailable() -> str | None:
    """Why there can be no cluster here, or None."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)} (Debian: apt-get install iproute2 util-linux mount)"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    try:
        tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "unshare hangs"
    return f"cannot make namespaces here: {tried.stderr.strip()}" if tried.returncode else None


def missing_for(case: Case) -> str | None:
    """The package that the case's system needs and that is not installed, or None."""
    needs = {"mpi": "mpi4py", "accumulate": "mpi4py", "box": "torch", "pool": "numpy", "ddp": "torch"}.get(
        case.system, case.system
    )
    return None if importlib.util.find_spec(needs) else needs


def run(case: Case) -> Measured:
    """Measure; whatever happens, nothing of the cluster is left afterwards.

    Raises:
        ClusterError: something that took part has failed, or took too long.
    """
    command = [*NAMESPACES, sys.executable, "-m", "bench.cluster.inside"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment
    ) as process:
        try:
            output, errors = process.communicate(msgspec.json.encode(case), timeout=case.seconds + TIMEOUT)
        except BaseException as error:
            process.kill()  # and with it all that is inside
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ClusterError(
                    f"{case.system}, {case.workers} workers: took longer than {error.timeout:g} s"
                ) from None
            raise
    if process.returncode:
        raise ClusterError(f"{case.system}, {case.workers} workers:\n{errors.decode(errors='replace').strip()}")
    return msgspec.json.decode(output, type=Measured)


def main(file: str) -> None:
    """Run the case of a JSON file and print what was measured."""
    from bench.cluster.case import Case

    case = msgspec.json.decode(Path(file).read_bytes(), type=Case)
    print(msgspec.json.format(msgspec.json.encode(run(case))).decode())


if __name__ == "__main__":
    main(sys.argv[1])
