"""What runs in the namespaces: builds the network, starts everything, measures, and ends with all of it.

python -m bench.cluster.inside < CASE.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from bench.cluster.case import Case
from bench.cluster.network import Network
from bench.cluster.run import Measured
from bench.cluster.systems import TOKEN, commands, server_commands

if TYPE_CHECKING:
    import subprocess

START_SECONDS = 400.0
FOLDER = Path("/run/bench")
LOOK_SECONDS = 0.05
SHOWN_LINES = 15


class Cluster:
    """Everything that takes part in a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.network = Network(case.all_hosts, case.rate)
        self.processes: list[tuple[subprocess.Popen[bytes], Path]] = []
        self.environment = {
            "BENCH_CASE": msgspec.json.encode(case).decode(),
            "BENCH_FOLDER": str(FOLDER),
            "MODUM_TOKEN": TOKEN,
            # what DeepSpeed compiles when it starts: elsewhere a killed run would leave a lock for the next one
            "TORCH_EXTENSIONS_DIR": str(FOLDER / "extensions"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
        }

    def start(self) -> None:
        """Servers first; workers when those are ready."""
        self.network.build()
        FOLDER.mkdir()
        case, waiting = self.case, []
        for number, (command, ready) in enumerate(server_commands(case)):
            log = self._start(f"server{number}", case.host_of_server(number), command, {})
            waiting.append((number, log, ready))
        for number, log, ready in waiting:
            self.wait(lambda log=log, ready=ready: ready in log.read_text(errors="replace"), f"server {number}")
        for process in commands(case):
            self._start(process.name, process.host, process.command, process.environment)

    def _start(self, name: str, host: int, command: list[str], environment: dict[str, str]) -> Path:
        log = FOLDER / f"{name}.log"
        process = self.network.start(host, command, {**self.environment, **environment}, log)
        self.processes.append((process, log))
        return log

    def wait(self, done: Any, what: str, seconds: float = START_SECONDS) -> None:
        """Until ``done()``; an error if a process ends first, or time is up."""
        deadline = time.monotonic() + seconds
        while not done():
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} took longer than {seconds:g} s\n{self.logs()}")
            time.sleep(LOOK_SECONDS)

    def check(self) -> None:
        """An error if a process has ended."""
        for process, log in self.processes:
            if (status := process.poll()) is not None:
                raise RuntimeError(f"{log.stem} has ended with status {status}\n{self.logs()}")

    def logs(self) -> str:
        """The last lines of all."""
        texts = [
            f"--- {log.stem}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-SHOWN_LINES:])
            for _, log in self.processes
        ]
        return "\n".join(texts)

    def steps(self) -> list[list[tuple[float, float, dict[str, float]]]]:
        """What the workers have noted so far, by rank; a system that only counts has one list."""
        found = []
        for file in sorted(FOLDER.glob("steps.*"), key=lambda file: int(file.suffix[1:])):
            lines = file.read_text().splitlines(keepends=True)
            found.append([tuple(json.loads(line)) for line in lines if line.endswith("\n")])
        return found


def measure(case: Case) -> Measured:
    """Run the case."""
    cluster = Cluster(case)
    cluster.start()
    logs = 1 if case.system == "tensorflow" else case.workers

    def warm() -> bool:
        steps = cluster.steps()
        return len(steps) == logs and all(_count(log) >= case.warm_up * case.workers / logs for log in steps)

    cluster.wait(warm, "warming up", START_SECONDS + 10 * case.warm_up * case.step_seconds)
    begin, sent, processor = time.monotonic(), cluster.network.nbytes(), psutil.cpu_times()
    while (left := begin + case.seconds - time.monotonic()) > 0:
        cluster.check()
        if case.steps is not None and sum(_count(log) for log in cluster.steps()) >= case.steps:
            break
        time.sleep(min(left, 0.5))
    end = time.monotonic()
    sent = [after - before for before, after in zip(sent, cluster.network.nbytes(), strict=True)]
    busy = _busy(processor, psutil.cpu_times())
    steps = cluster.steps()
    # for the step under way when the time was up: what of it lay before
    cluster.wait(
        lambda: all(log[-1][0] > end for log in cluster.steps()), "the last step", 120 + 20 * case.step_seconds
    )
    steps = cluster.steps()
    for process, _ in cluster.processes:
        process.kill()
    return _sum_up(case, steps, begin, end, sent, busy)


def _sum_up(case: Case, steps: list[Any], begin: float, end: float, sent: list[int], busy: float) -> Measured:
    done = sum(_between(log, begin, end) for log in steps)
    inside = [[entry for entry in log if begin <= entry[0] <= end] for log in steps]
    gaps = [
        (after[0] - before[0])
        / max(1.0, _weight(after) - _weight(before))
        * (case.workers if len(steps) == 1 < case.workers else 1)
        for log in inside
        for before, after in pairwise(log)
    ]
    computing = [entry[1] for log in inside for entry in log]
    late = [entry[1] > 1.05 * case.step_of(rank) for rank, log in enumerate(inside) for entry in log if len(steps) > 1]
    first = min(log[0][0] for log in steps)
    return Measured(
        seconds=end - begin,
        steps=done,
        efficiency=done / (end - begin) / case.ideal if case.step_seconds else 0.0,
        step_seconds=fmean(gaps) if gaps else 0.0,
        compute_seconds=fmean(computing) if computing else 0.0,
        sent=sent,
        busy=busy,
        late=fmean(late) if late else 0.0,
        details=_details(inside),
        curve=_curve(case, first) if case.accuracy is not None else [],
    )


def _count(log: list[Any]) -> float:
    return _weight(log[-1]) if log else 0.0


def _weight(entry: Any) -> float:
    """How many steps were done by then: a system that only counts says so, else each line is one."""
    return float(entry[2].get("count", entry[2].get("index", 0)))


def _between(log: list[Any], begin: float, end: float) -> float:
    """Steps from ``begin`` to ``end``; what of a step lies inside counts as its part."""
    return _position(log, end) - _position(log, begin)


def _position(log: list[Any], moment: float) -> float:
    for before, after in pairwise(log):
        if before[0] <= moment < after[0]:
            part = float((moment - before[0]) / (after[0] - before[0]))
            return _weight(before) + (_weight(after) - _weight(before)) * part
    return _weight(log[-1]) if log and log[-1][0] <= moment else 0.0


def _details(inside: list[Any]) -> dict[str, float]:
    """Of a box: exchanges of all workers, their mean seconds, and the mean interval."""
    found = [(log[0][2], log[-1][2]) for log in inside if log and "exchanges" in log[0][2]]
    if not found:
        return {}
    exchanges = sum(last["exchanges"] - first["exchanges"] for first, last in found)
    seconds = sum(last["exchange_seconds"] - first["exchange_seconds"] for first, last in found)
    return {
        "exchanges": exchanges,
        "exchange_seconds": seconds / max(1, exchanges),
        "interval": fmean(last["interval"] for _, last in found),
        "put_off": sum(last["put_off"] - first["put_off"] for first, last in found),
    }


def _curve(case: Case, first: float) -> list[tuple[float, float]]:
    """Test the weights that were kept."""
    import torch

    from bench.cluster.compute import accuracy, make

    torch.set_num_threads(os.cpu_count() or 1)
    model = make(case, 0)
    curve = []
    for file in sorted(FOLDER.glob("*.weights"), key=lambda file: float(file.stem)):
        model.layers.load_state_dict(torch.load(file))
        curve.append((float(file.stem) - first, accuracy(model)))
    return curve


def _busy(before: Any, after: Any) -> float:
    everything = sum(after) - sum(before)
    idle = after.idle + after.iowait - before.idle - before.iowait
    return float(1 - idle / everything) if everything else 0.0


def main() -> None:
    """Measure, and print it; on an error, say why on standard error."""
    case = msgspec.json.decode(sys.stdin.buffer.read(), type=Case)
    try:
        measured = measure(case)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(msgspec.json.encode(measured).decode(), flush=True)


if __name__ == "__main__":
    main()
