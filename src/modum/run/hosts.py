"""One job on several hosts, each with a `modum run`: they meet in the box, which gives each host its ranks."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from modum.box import Box, Value
from modum.cluster.environment import timeouts_of
from modum.cluster.registration import clear_places, host_name
from modum.coordination import Roster
from modum.errors import DeadlineError, MismatchError
from modum.observe.progress import clear_progress
from modum.run.config import RunConfig
from modum.waiting import poll

__all__ = ["Part", "meet"]

_LOOK_SECONDS: Final = 0.1
_NAME: Final = "modum/hosts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """This host's workers among those of the job."""

    first: int
    """Rank of the first one."""
    world_size: int
    """Workers of the whole job."""
    failure: str = ""
    """Name of the value in the box by which hosts tell each other that the job is to stop; empty: there is none."""
    launched: int | None = None
    """Workers that the job was launched with, if these join it later."""

    @classmethod
    def whole(cls, config: RunConfig) -> "Part":
        """Return the part of a host that is alone."""
        return cls(first=0, world_size=config.workers, failure=f"{_NAME}/failure/{uuid.uuid4().hex[:12]}")


def meet(box: Box, config: RunConfig, say: Callable[[str], None]) -> Part:
    """Wait until the launchers of all hosts of a job have come.

    Those that come first take part, in the order in which they came. One that has died may be seen for a moment longer,
    so all of them have to agree.

    Args:
        box: the job's box, in its namespace.
        config: the job here; `config.hosts` says how many take part.
        say: is told that this host waits.

    Returns:
        The ranks of this host's workers.

    Raises:
        MismatchError: another host comes with another number of hosts, or another group size.
        DeadlineError: too few hosts came in time; people start them by hand, so they have as long as `Timeouts.others`.
    """
    roster, timeout = Roster(box, _NAME), timeouts_of(config.timeout).others
    came = box.counter(f"{_NAME}/came").add(1)
    own = f"{came:08d} {config.workers} {config.hosts} {config.group_size} {host_name()}"
    proposed, agreed = box.value(f"{_NAME}/proposed"), box.value(f"{_NAME}/agreed")

    def says(name: str) -> Value:
        return box.value(f"{_NAME}/says/{name}")

    def look() -> list[str] | None:
        there = sorted(roster.alive())  # before the plan: the one that makes it leaves afterwards
        plan: list[str] = agreed.get() or []
        if own in plan:
            return plan
        _check(own, there)
        chosen, proposal = there[: config.hosts], proposed.get()
        if proposal and own in proposal:
            says(own).set(proposal)
        if chosen[0] != own or len(chosen) < config.hosts:
            return None
        if proposal != chosen:
            proposed.set(chosen)
        elif all(says(name).get() == chosen for name in chosen):
            clear_progress(box)
            clear_places(box, range(sum(map(_workers, chosen))))
            agreed.set(chosen)
            return chosen
        return None

    def late() -> DeadlineError:
        return DeadlineError(
            f"{len(roster.alive())} of {config.hosts} hosts came to this job within {timeout:g} s\n"
            f"HINT: {_hint(config)}"
        )

    member = roster.join(own, timeout=timeout)
    try:
        if len(roster.alive()) < config.hosts:
            say(f"waiting for {config.hosts} hosts; {_hint(config)}")
        plan = poll(look, timeout=timeout, every=_LOOK_SECONDS, error=late)
    finally:
        member.leave()
        says(own).delete()
    assert plan is not None
    before = plan[: plan.index(own)]
    return Part(
        first=sum(map(_workers, before)),
        world_size=sum(map(_workers, plan)),
        failure=f"{_NAME}/failure/{plan[0]}",
    )


def _workers(name: str) -> int:
    return int(name.split(" ", 4)[1])


def _check(own: str, there: Sequence[str]) -> None:
    _, _, hosts, group_size, _ = own.split(" ", 4)
    for name in there:
        _, _, other_hosts, other_size, host = name.split(" ", 4)
        if (hosts, group_size) != (other_hosts, other_size):
            raise MismatchError(
                f"this host comes with --hosts {hosts} and --group-size {group_size}, but {host} with --hosts "
                f"{other_hosts} and --group-size {other_size}\nHINT: give the same on all hosts of a job"
            )


def _hint(config: RunConfig) -> str:
    name = f" --name {config.name}" if config.name else ""
    return (
        f"start on each of them: modum run --box {','.join(config.box)}{name} --hosts {config.hosts} -n WORKERS "
        f"{' '.join(config.command)}"
    )
