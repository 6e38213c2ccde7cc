"""What a SIGKILL of a whole job costs its result: `python -m bench.resume`.

Trains Fashion-MNIST (`examples/torch/fashion_mnist.py`) undisturbed, and once more with all processes killed at a
random moment and the same command given again.
"""

import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import psutil
import typer

from bench.machine import describe
from modum.box.snapshots.folder import snapshots_in
from modum.checkpoints.files import WORKERS

SCRIPT: Final = Path(__file__).parents[1] / "examples" / "torch" / "fashion_mnist.py"


def start(folder: Path, workers: int, every: str, seed: int, epochs: int) -> "subprocess.Popen[str]":
    """Start, or resume, the training whose checkpoints are in a folder."""
    command = [sys.executable, "-m", "modum", "run", "-n", str(workers), "--resume", str(folder)]
    command += ["--snapshot-every", every, str(SCRIPT), "--seed", str(seed), "--epochs", str(epochs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def accuracy(run: "subprocess.Popen[str]") -> float:
    """Wait for a training's end, and return its test accuracy in percent."""
    output, errors = run.communicate()
    found = re.search(r"test accuracy ([\d.]+) %", output)
    if run.returncode or found is None:
        raise RuntimeError(errors)
    return float(found[1])


def kill(run: "subprocess.Popen[str]") -> None:
    """Kill all processes of a run at one moment."""
    everybody = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in everybody:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
    run.communicate()


def main(
    seeds: Annotated[int, typer.Option(help="Trainings of each kind.")] = 3,
    workers: Annotated[int, typer.Option("-n", help="Workers.")] = 2,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 1,
    every: Annotated[str, typer.Option(help="Time between checkpoints.")] = "2s",
    within: Annotated[float, typer.Option(help="Killed this many seconds after the first checkpoint, at most.")] = 8.0,
) -> None:
    """Print the test accuracies."""
    print("; ".join(value for name, value in describe().items() if name != "date"))
    print("| seed | undisturbed | killed and resumed | killed after its first checkpoint by |\n|---|---|---|---|")
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as name:
            whole = accuracy(start(Path(name), workers, every, seed, epochs))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run = start(folder, workers, every, seed, epochs)
            while not snapshots_in(folder / WORKERS):
                time.sleep(0.05)
            seconds = random.Random(seed).uniform(0, within)  # noqa: S311
            time.sleep(seconds)
            kill(run)
            resumed = accuracy(start(folder, workers, every, seed, epochs))
        print(f"| {seed} | {whole:.2f} % | {resumed:.2f} % | {seconds:.1f} s |", flush=True)


if __name__ == "__main__":
    typer.run(main)
