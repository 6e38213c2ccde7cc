"""The seam between what an update rule decides and how a worker carries it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modum.box import Buffer
    from modum.parameters import Vector

Auto = Literal["auto"]
"""The setting that leaves a choice to Modum."""


class Leg(NamedTuple):
    """Bytes that cross the network at the same time during an exchange: to the box, and back from it."""

    out: int
    back: int


class Part(ABC):
    """One worker's part in a rule, for one vector and its buffer.

    Args:
        vector: the worker's weights.
        buffer: the shared weights.

    Attributes:
        apart: how far the worker was from the shared weights at its last exchange, `|W - G| / |W|`; 0 where a rule does
            not know.
    """

    def __init__(self, vector: Vector, buffer: Buffer) -> None:
        self.vector = vector
        self.buffer = buffer
        self.apart = 0.0

    @property
    def learning(self) -> int:
        """How many elements of the vector's slice are trained; behind them are statistics."""
        return min(max(self.vector.trainable - self.vector.offset, 0), self.vector.staging.size)

    @abstractmethod
    def transfer(self, groups: int, steps: int) -> float:
        """Exchange the snapshot that the vector took; runs on the background thread.

        On return the vector's staging holds the correction, which the worker subtracts from its current
        weights.

        Args:
            groups: number of live groups.
            steps: local steps since the snapshot before, or since `pulled`.

        Returns:
            The rate of this exchange, greater than 0 and at most 1: how far statistics move toward the shared ones.

        Raises:
            ModumError: the box failed; the snapshot is lost then.
        """

    def pulled(self) -> None:  # noqa: B027 - most rules remember nothing
        """Note that the vector has just taken the shared weights (collective)."""

    def state(self) -> dict[str, Any]:
        """Return what this part remembers from one exchange to the next: numbers, and copies of arrays, by name."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most rules remember nothing
        """Remember what `state` has returned, of a part of the same rule and as many elements."""


class UpdateRule(ABC):
    """How local weights W and shared weights G move together.

    A rule is a frozen dataclass of settings. Every `interval` local steps a worker takes a snapshot of its weights,
    gives it to the rule's `Part`, and subtracts the resulting correction from its weights.

    Attributes:
        name: the rule's name in settings, on command lines and in reports.
    """

    __slots__ = ()

    name: ClassVar[str]

    @property
    @abstractmethod
    def interval(self) -> int | Auto:
        """Local steps between exchanges; "auto": the fewest that hide an exchange under compute."""

    @property
    @abstractmethod
    def overlap(self) -> bool:
        """Whether the transfer runs in the background while the worker goes on computing."""

    @abstractmethod
    def part(self, vector: Vector, buffer: Buffer) -> Part:
        """Return the part that applies the rule to one of a worker's vectors."""

    @abstractmethod
    def traffic(self, nbytes: int) -> tuple[Leg, ...]:
        """Return what an exchange of `nbytes` of weights moves, in legs: each begins when the previous one is over."""

    def memory(self, nbytes: int) -> int:
        """Return the bytes that a part remembers from one exchange to the next, for `nbytes` of weights."""
        return 0

    def settings(self) -> dict[str, Any]:
        """Return what must be equal in all workers of a job: the rule's name, and its fields as plain values."""
        return {"rule": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        """The rule and its settings, as command lines take them: see `rule_from_text`."""
        name, *settings = self.settings().items()
        return f"{name[1]}:{','.join(f'{key}={value}' for key, value in settings)}".removesuffix(":")


def check_interval(interval: int | Auto) -> None:
    """Check an interval.

    Args:
        interval: the interval.

    Raises:
        ValueError: it is neither at least 1 nor "auto".
    """
    if interval != "auto" and interval < 1:
        raise ValueError(f'interval ({interval!r}) must be a whole number of steps, at least 1, or "auto"')
