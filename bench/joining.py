"""How long after its start a worker that joins a running job has its first exchange: `python -m bench.joining`."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.machine import OtherLoad, describe
from modum.box import Server, new_token
from modum.units import format_seconds

TRAIN: Final = """
import time
import torch, modum, modum.torch
imported = time.time()
with modum.connect() as job:
    model = torch.nn.Sequential(torch.nn.Linear(784, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with modum.torch.Averager(job, model, optimizer) as averager:
        joins = job.rank >= job.launched
        while not job.stopping:
            optimizer.zero_grad()
            model(torch.randn(64, 784)).square().mean().backward()
            optimizer.step()
            if averager.statistics().exchanges:
                print("exchanged", imported, time.time(), averager.statistics().groups, flush=True)
                if joins:
                    break
        averager.finish(timeout=None)
"""
WORKERS: Final = 2


def first_exchange(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Return when a worker of a launcher had imported everything, and when it had its first exchange."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"exchanged (\S+) (\S+)", line):
            return float(found[1]), float(found[2])
    raise RuntimeError("a worker has made no exchange: see its error above")


def main(times: Annotated[int, typer.Option(help="How many workers join, one after the other.")] = 5) -> None:
    """Have workers join a job of two, one after the other, and print how long each took to its first exchange."""
    token, load = new_token(), OtherLoad()
    command = [sys.executable, "-m", "modum"]
    with tempfile.TemporaryDirectory() as folder, Server(token=token) as server:
        environment = {**os.environ, "MODUM_TOKEN": token}
        script = Path(folder) / "train.py"
        script.write_text(TRAIN)
        job = [*command, "run", "--box", server.address, "-n", str(WORKERS), str(script)]
        join = [*command, "join", server.address, str(script)]
        with subprocess.Popen(
            job, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        ) as run:
            first_exchange(run)
            after_imports, after_start = [], []
            for _ in range(times):
                started = time.time()
                with subprocess.Popen(
                    join, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
                ) as joined:
                    imported, exchanged = first_exchange(joined)
                    joined.communicate()
                after_imports.append(exchanged - imported)
                after_start.append(exchanged - started)
            run.terminate()
            run.communicate()
    print("; ".join(value for name, value in describe().items() if name != "date"))
    print(f"other programs took {load.share():.0%} of the processor")
    for what, seconds in (("after its imports", after_imports), ("after `modum join` was typed", after_start)):
        middle, longest = statistics.median(seconds), max(seconds)
        print(f"first exchange {what}: median {format_seconds(middle)}, longest {format_seconds(longest)} of {times}")


if __name__ == "__main__":
    typer.run(main)
