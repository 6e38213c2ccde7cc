"""Measures of this machine and of a running box, for a plan of what is there."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from modum.box import Box, Server, new_token
from modum.observe.progress import read_progress

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
STEP_PATIENCE = 120.0
"""Seconds for a script to come to its steps and do enough of them."""
WARM_UP_STEPS, LEAST_STEPS = 3, 5
LEAST_SECONDS = 2.0
"""Workers report twice a second, so that a shorter measurement would be one of their reports."""
LOOK_SECONDS = 0.05


def measure_copy(nbytes: int = 64 << 20) -> float:
    """Bytes per second at which one thread copies an array of ``nbytes``."""
    source, target = np.ones(nbytes, np.uint8), np.empty(nbytes, np.uint8)
    np.copyto(target, source)  # the first touch is another thing

    def copy() -> None:
        np.copyto(target, source)

    return nbytes / _median(copy)


def measure_bandwidth(box: Box, nbytes: int = 16 << 20) -> tuple[float, float]:
    """Bytes per second of an exchange with ``box`` (one way), and the seconds of a small one.

    Makes a buffer of ``nbytes`` in the box for the time of the measurement.

    Raises:
        PoolFullError: the box has no room for it.
    """
    name = f"modum/measure/{uuid.uuid4().hex[:12]}"
    x = np.zeros(nbytes // 4, np.float32)
    buffer = box.create(name, x.size)
    try:
        buffer.exchange(x, 0.5)  # compilers and socket buffers
        large = _median(lambda: buffer.exchange(x, 0.5))
        small = _median(lambda: buffer.exchange(x[:1], 0.5))
    finally:
        buffer.close()
        box.delete(name)
    return nbytes / max(large - small, 1e-9), small


def _median(act: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_step(command: list[str]) -> float:
    """Seconds of a local step of ``command``, a script that trains with `modum.connect`, run by one worker.

    The script is started with a memory server of its own and ended after some steps. Its own interpreter is
    ``python``, as in ``["python", "train.py"]``.

    Raises:
        ValueError: it ended, or ran for `STEP_PATIENCE` seconds, before it had reported enough steps.
    """
    with Server(token=(token := new_token())) as server, Box.connect(server.address, token=token) as box:
        environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        environment |= {"MODUM_GROUP_SIZE": "1", "MODUM_BOX": server.address, "MODUM_TOKEN": token}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                return _step_seconds(box, process, " ".join(command))
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _step_seconds(box: Box, process: subprocess.Popen[bytes], name: str) -> float:
    deadline = time.monotonic() + STEP_PATIENCE
    first: tuple[float, int] | None = None
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        progress = read_progress(box)
        steps = 0 if progress is None else progress.steps
        now = time.monotonic()
        if first is None and steps >= WARM_UP_STEPS:
            first = (now, steps)
        elif first is not None and steps >= first[1] + LEAST_STEPS and now - first[0] >= LEAST_SECONDS:
            return (now - first[0]) / (steps - first[1])
        if ended:
            raise ValueError(f"{name} ended with status {process.returncode} after {steps} steps, too few to measure")
        time.sleep(LOOK_SECONDS)
    raise ValueError(f"{name} did {steps} steps in {STEP_PATIENCE:g} s, too few to measure")
