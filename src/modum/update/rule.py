"""The seam between what an update rule decides and how a worker carries it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modum.box import Buffer

Auto = Literal["auto"]


class UpdateRule(ABC):
    """How local weights ``W`` and shared weights ``G`` move together.

    A rule is a frozen dataclass of settings. Every ``interval`` local steps a worker takes a snapshot of its
    weights, gives it to `transfer`, and subtracts what comes back from its weights.
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
    def transfer(self, buffer: Buffer, x: NDArray[np.generic], *, offset: int, rate: float) -> None:
        """Exchange a snapshot with the shared weights; runs on the background thread.

        ``x`` is a 1-D array of the buffer's dtype that holds ``W[offset : offset + x.size]``; on return it
        holds the correction, which the worker subtracts from its weights of that moment. Raises what the box
        raises.
        """
