"""The seam between what an update rule decides and how a worker carries it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from modum.box import Buffer
    from modum.parameters.vector import Vector

Auto = Literal["auto"]


class Part(ABC):
    """One worker's part in a rule, for one vector and its buffer."""

    def __init__(self, vector: Vector, buffer: Buffer) -> None:
        self.vector = vector
        self.buffer = buffer

    @abstractmethod
    def transfer(self, rate: float) -> None:
        """Exchange the snapshot that the vector took; runs on the background thread.

        On return the vector's staging holds the correction, which the worker subtracts from its weights of that
        moment. Raises what the box raises.
        """

    def pulled(self) -> None:  # noqa: B027 - most rules remember nothing
        """The vector has just taken over the shared weights (collective)."""


class UpdateRule(ABC):
    """How local weights ``W`` and shared weights ``G`` move together.

    A rule is a frozen dataclass of settings. Every ``interval`` local steps a worker takes a snapshot of its
    weights, gives it to the `Part` that the rule made for it, and subtracts what comes back from its weights.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def interval(self) -> int | Auto:
        """Local steps between exchanges; ``"auto"``: as few as hide the exchange under compute."""

    @property
    @abstractmethod
    def overlap(self) -> bool:
        """Whether the transfer runs in the background while the worker goes on computing."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What must be alike in all workers of a job: names and plain values."""

    @abstractmethod
    def rate(self, groups: int) -> float:
        """The moving rate of an exchange while ``groups`` groups are alive."""

    @abstractmethod
    def part(self, vector: Vector, buffer: Buffer) -> Part:
        """What one worker does, and remembers, for one of its vectors."""
