"""Measure this machine and a script, as input for a plan; `modum.observe.bandwidth` measures a box."""

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from modum.box import Box, Server, new_token
from modum.cluster.modum_run import ModumRun
from modum.observe.progress import JobProgress, read_progress
from modum.waiting import poll

__all__ = ["measure_copy", "measure_step"]

ROUNDS: Final = 5
STEP_TIMEOUT: Final = 120.0
"""Seconds for a script to start its steps and do enough of them."""
WARM_UP_STEPS: Final = 3
LEAST_STEPS: Final = 5
LEAST_SECONDS: Final = 2.0
"""So that the measurement is of more than a few steps where they are short."""


def measure_copy(nbytes: int = 64 << 20) -> float:
    """Return the bytes per second at which one thread copies an array of `nbytes`."""
    source, target = np.ones(nbytes, np.uint8), np.empty(nbytes, np.uint8)
    np.copyto(target, source)  # the first touch costs page faults
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return nbytes / statistics.median(seconds)


def measure_step(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a script as the only worker of a job, with its own memory server, and end it after some steps.

    Args:
        command: command of a script that trains with `modum.connect`, such as ["python", "train.py"].
        environment: the script's environment variables, to which the job's are added.

    Returns:
        Seconds per local step.

    Raises:
        ValueError: it ended, or ran for `STEP_TIMEOUT` seconds, before it had reported enough steps.
        OSError: it cannot be started.
    """
    with Server(token=(token := new_token())) as server, Box.connect(server.address, token=token) as box:
        place = ModumRun(rank=0, world_size=1, local_rank=0, box_servers=(server.address,), token=token)
        variables = {**environment, **place.variables()}
        with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                return _step_seconds(box, process, " ".join(command))
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _step_seconds(box: Box, process: "subprocess.Popen[bytes]", name: str) -> float:
    first: JobProgress | None = None
    steps = 0

    def measured() -> float | None:
        nonlocal first, steps
        ended = process.poll() is not None
        progress = read_progress(box)
        if progress is not None:
            steps = progress.steps
            if first is None and steps >= WARM_UP_STEPS:
                first = progress
            elif first is not None:
                # by the worker's clock: when its reports are seen here depends on who else computes
                done, seconds = steps - first.steps, progress.now - first.now
                if done >= LEAST_STEPS and seconds >= LEAST_SECONDS:
                    return seconds / done
        if ended:
            raise ValueError(f"{name} ended with status {process.returncode} after {steps} steps, too few to measure")
        return None

    seconds = poll(
        measured,
        timeout=STEP_TIMEOUT,
        error=lambda: ValueError(f"{name} did {steps} steps in {STEP_TIMEOUT:g} s, too few to measure"),
    )
    assert seconds is not None
    return seconds
