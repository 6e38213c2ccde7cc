"""Hybrid: synchronous inside a group, asynchronous between groups (HSGD of ShmCaffe)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from modum.rules.elastic import Elastic
from modum.rules.rule import UpdateRule

if TYPE_CHECKING:
    from modum.box import Buffer
    from modum.parameters.vector import Vector
    from modum.rules.rule import Auto, Leg, Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Hybrid(UpdateRule):
    """HSGD: gradients are averaged inside a group before every step, and the group exchanges as one worker.

    The weights of a group's members stay identical; each member exchanges its own slice with the box. A group of one is
    exactly `between`, so a script with `Hybrid()` runs alone, as single workers, or in groups, as it is launched.

    Attributes:
        inside: the front end's handle for the group: for PyTorch a `torch.distributed.ProcessGroup`. None: the group
            that the job was launched with (`modum run --group-size`).
        between: the rule between the groups and the box.
    """

    name: ClassVar[str] = "hybrid"

    inside: Any = None
    between: UpdateRule = field(default_factory=Elastic)

    def __post_init__(self) -> None:
        if isinstance(self.between, Hybrid):
            raise ValueError("between must be an asynchronous rule such as Elastic(), not another Hybrid")

    @property
    def interval(self) -> int | Auto:
        return self.between.interval

    @property
    def overlap(self) -> bool:
        return self.between.overlap

    def settings(self) -> dict[str, Any]:
        return self.between.settings()

    def part(self, vector: Vector, buffer: Buffer) -> Part:
        return self.between.part(vector, buffer)

    def traffic(self, nbytes: int) -> tuple[Leg, ...]:
        return self.between.traffic(nbytes)

    def memory(self, nbytes: int) -> int:
        return self.between.memory(nbytes)


def check_groups(rule: UpdateRule, group_size: int) -> None:
    """Check that a rule handles groups, if the job was launched with them.

    Args:
        rule: the rule to check.
        group_size: workers in a group.

    Raises:
        ValueError: groups have several members, and the rule is not `Hybrid`.
    """
    if group_size > 1 and not isinstance(rule, Hybrid):
        name = type(rule).__name__
        raise ValueError(
            f"the job was launched with groups of {group_size}, but {name} knows no groups: "
            f"use Hybrid(between={name}(...)), or launch with --group-size 1 (MODUM_GROUP_SIZE=1)"
        )
