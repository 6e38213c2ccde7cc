"""Come to a job that runs already: its numbers and its settings are in the box."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from modum.box import Box
from modum.cluster.registration import Running, check_joins, clear_places
from modum.observe.progress import join_workers
from modum.run.config import RunConfig
from modum.run.hosts import Part

__all__ = ["announce", "join"]

_NAME: Final = "modum/launch"


def announce(box: Box, config: RunConfig, part: Part) -> None:
    """Write into the box what those need to know who join the job later.

    Args:
        box: the job's.
        config: the job, as this host was told.
        part: this host's part in it.
    """
    launch = {"command": list(config.command), "failure": part.failure, "checkpoints": config.resume is not None}
    box.value(_NAME).set(launch)


def join(box: Box, config: RunConfig, say: Callable[[str], None]) -> tuple[RunConfig, Part]:
    """Take the next ranks of the job that runs in a box.

    Args:
        box: the job's, in its namespace.
        config: the workers that come.
        say: is told where the command is another one than the job's.

    Returns:
        The configuration, with the job's group size, and the ranks.

    Raises:
        ModumError: no job runs there.
        ValueError: the workers do not make whole groups of the job's size, or the job takes checkpoints.
    """
    running = Running(box, config.name)
    check_joins(running, running.group_size)
    if config.workers % running.group_size:
        raise ValueError(
            f"{config.workers} workers cannot join a job of groups of {running.group_size}: they make no whole groups\n"
            f"HINT: modum join -n {running.group_size}, or a multiple of it"
        )
    launch: dict[str, Any] = box.value(_NAME).get() or {}  # another launcher than `modum run` writes none
    if launch.get("checkpoints"):  # the resumed job would count their samples as done, and lack what they had learned
        raise ValueError(
            "this job takes checkpoints (modum run --resume), in which workers that join have no part\n"
            "HINT: start it with --snapshot-dir in place of --resume, or do without others"
        )
    theirs, ours = launch.get("command", config.command), config.command
    if list(theirs) != list(ours):
        say(f"the job was started as {' '.join(theirs)}, these workers as {' '.join(ours)}: what must agree is checked")
    first = running.workers + join_workers(box, config.workers)
    clear_places(box, range(first, first + config.workers))
    part = Part(
        first=first,
        world_size=first + config.workers,
        failure=launch.get("failure", ""),
        launched=running.workers,
    )
    return replace(config, group_size=running.group_size), part
