"""Say which members of a group are missing where the others wait."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from modum.box import Box
from modum.errors import ModumError
from modum.observe.progress import last_step
from modum.units import format_seconds
from modum.waiting import poll

__all__ = ["absent"]

_SECONDS: Final = 3.0
"""How long members that have failed as well have to say so: one that dies ends the others' waits at once."""


class _Silent(Exception):  # noqa: N818 - only ends a wait
    """Some have not said anything."""


def absent(
    box: Box, name: str, rank: int, ranks: Sequence[int], present: Callable[[Sequence[int]], Mapping[int, str]]
) -> str:
    """Return in words which members have neither failed with this one nor come; empty if all are heard of.

    Args:
        box: the job's.
        name: where in the box the members of the group say that their collective has failed.
        rank: this member's.
        ranks: of all members.
        present: returns those of some ranks that are connected, with their hosts.

    Returns:
        Their ranks, whether they are there still, their hosts and their last steps.
    """
    box.value(f"{name}/{rank}").set(True)
    silent = [each for each in ranks if each != rank]

    def all_said() -> bool:
        silent[:] = [each for each in silent if box.value(f"{name}/{each}").get() is None]
        return not silent

    try:
        poll(all_said, timeout=_SECONDS, error=_Silent)
    except _Silent:
        there = present(silent)
        return "; ".join(_described(box, each, there.get(each)) for each in silent)
    except ModumError as error:
        return f"the memory servers do not say who ({error})"
    return ""


def _described(box: Box, rank: int, host: str | None) -> str:
    state = "has died, or has left" if host is None else f"on {host} is there, but does not come"
    last = last_step(box, rank)
    did = "it has reported no step"
    if last is not None:
        steps, seconds = last
        did = f"its last report was of step {steps}, {format_seconds(seconds)} ago"
    return f"rank {rank} {state} ({did})"
