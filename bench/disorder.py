"""What a job loses to constant disorder: `python -m bench.disorder`.

Trains Fashion-MNIST (`examples/torch/fashion_mnist.py`) with four workers and three memory servers with replicas, once
undisturbed, and once with workers and servers killed or stopped all the time. A worker that was killed is replaced by
one that joins. The first worker is left alone: it prints the result.
"""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import psutil
import typer

from bench.machine import OtherLoad, describe
from modum.box import new_token

SCRIPT: Final = Path(__file__).parents[1] / "examples" / "torch" / "fashion_mnist.py"
WORKERS: Final = 4
SERVERS: Final = 3
STOPPED: Final = 3.0
"""Seconds of SIGSTOP."""
KINDS: Final = ("server killed", "server stopped", "worker killed", "worker stopped")


class Job:
    """A training, and those who joined it."""

    def __init__(self, epochs: int, seed: int, *, token: str) -> None:
        self._environment = {**os.environ, "MODUM_TOKEN": token}
        self._script = [str(SCRIPT), "--epochs", str(epochs), "--seed", str(seed)]
        self.output: list[str] = []
        self.joined: list[subprocess.Popen[str]] = []
        self.run = self._start(
            "run", "-n", str(WORKERS), "--servers", str(SERVERS), "--replicas", "2", "--on-failure", "continue"
        )
        self._box = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "modum", *command, *self._script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
        )

    def _read(self) -> None:
        assert self.run.stdout is not None
        for line in self.run.stdout:
            self.output.append(line)
            if found := re.search(r"memory servers \(([^)]*), up to", line):
                self._box = found[1].replace(" ", "")

    @property
    def servers(self) -> list[psutil.Process]:
        """Memory servers that run."""
        return [each for each in self._children(self.run.pid) if "server" in each.cmdline()[:6]]

    @property
    def workers(self) -> list[psutil.Process]:
        """Workers that run, but for the first one."""
        launchers = [self.run, *self.joined]
        found = [each for one in launchers for each in self._children(one.pid) if str(SCRIPT) in each.cmdline()]
        return [each for each in found if each.environ().get("MODUM_RANK") != "0"]

    def _children(self, launcher: int) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [each for each in psutil.Process(launcher).children() if each.status() != psutil.STATUS_ZOMBIE]
        return []

    def join(self) -> None:
        """Have a worker come in place of one that was killed."""
        joined = self._start("join", self._box)
        threading.Thread(target=joined.communicate).start()
        self.joined.append(joined)

    def result(self) -> tuple[float, float]:
        """Wait for the end, and return accuracy in percent and seconds of the training."""
        self.run.wait()
        self._reader.join()
        for joined in self.joined:
            joined.wait()
        found = re.search(r"test accuracy ([\d.]+) % after [\d,]+ samples in (\d+) s", "".join(self.output))
        if found is None:
            raise RuntimeError("".join(self.output[-40:]))
        return float(found[1]), float(found[2])


def disturb(job: Job, mean: float, seed: int) -> Counter[str]:
    """Kill and stop, until the training is over, and return how often what was done."""
    dice, done = random.Random(seed), Counter[str]()  # noqa: S311 - of a game
    time.sleep(8.0)
    last_server = 0.0
    while job.run.poll() is None:
        time.sleep(dice.expovariate(1 / mean))
        kind = dice.choice(KINDS)
        if "server" in kind and time.monotonic() - last_server < 8.0:
            kind = kind.replace("server", "worker")  # one server at a time is what two replicas are for
        with suppress(psutil.NoSuchProcess, IndexError):
            victim = dice.choice(job.servers if "server" in kind else job.workers)
            if "server" in kind:
                last_server = time.monotonic()
            if "killed" in kind:
                victim.kill()
                if "worker" in kind:
                    job.join()
            else:
                victim.suspend()
                time.sleep(STOPPED)
                victim.resume()
            done[kind] += 1
    return done


def main(
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 40,
    mean: Annotated[float, typer.Option(help="Seconds between two disturbances, in the mean.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the training, and of who is disturbed.")] = 0,
) -> None:
    """Print accuracies and times."""
    token, load = new_token(), OtherLoad()
    calm = Job(epochs, seed, token=token).result()
    job = Job(epochs, seed, token=token)
    done = disturb(job, mean, seed)
    rough = job.result()
    print("; ".join(value for name, value in describe().items() if name != "date"))
    print(f"other programs took {load.share():.0%} of the processor")
    print(f"undisturbed: {calm[0]:.2f} % after {calm[1]:.0f} s")
    told = ", ".join(f"{kind} {count} times" for kind, count in sorted(done.items()))
    print(f"disturbed ({told}): {rough[0]:.2f} % after {rough[1]:.0f} s: goodput {calm[1] / rough[1]:.0%}")
    left = [each.pid for each in psutil.process_iter() if token in (each.environ() if _ours(each) else {}).values()]
    print(f"processes left behind: {len(left)}")


def _ours(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.environ()) and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    typer.run(main)
