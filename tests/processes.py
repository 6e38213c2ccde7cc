"""Processes that have to end."""

from collections.abc import Sequence

import psutil

from modum.waiting import poll

TIMEOUT = 110.0
"""Seconds until a process that goes on is a failure: machines that test are busy."""


def is_alive(process: psutil.Process | int) -> bool:
    """Return whether a process, or the one of this id, runs still."""
    try:
        one = psutil.Process(process) if isinstance(process, int) else process
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(processes: Sequence[psutil.Process] | Sequence[int], timeout: float = TIMEOUT) -> None:
    """Wait until all these processes have ended."""
    poll(
        lambda: not any(map(is_alive, processes)),
        timeout=timeout,
        every=0.01,
        error=lambda: AssertionError(f"{[each for each in processes if is_alive(each)]} go on"),
    )
