"""The seam to whatever a front end uses for collectives inside a group of workers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Group(ABC, Generic[T]):
    """Workers that step together. `T` is the arrays of the front end: of NumPy, PyTorch or TensorFlow.

    Every method is collective: all members call it, in the same order. Where arrays can be changed, a method may change
    those that it was given and return them; what it returns counts. A member that does not come makes the others raise
    DeadlineError, or what the collective library raises, after the group's timeout.

    Attributes:
        rank: this worker's number in the group, from 0; member 0 is the leader.
        size: number of members.
    """

    rank: int
    size: int

    @abstractmethod
    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the element-wise largest of all members' `values`, which are equally many everywhere."""

    @abstractmethod
    def broadcast(self, value: int) -> int:
        """Return the leader's `value` (64 bit, signed)."""

    @abstractmethod
    def average(
        self, arrays: Sequence[T | None], like: Sequence[T] | None = None, *, purpose: str = "average"
    ) -> list[T | None]:
        """Return the mean of every array over all members: of gradients, say.

        An array that is missing in some members counts as zero there, and all members get the mean; one that is missing
        in all stays None. So an optimizer treats each parameter alike everywhere.

        Args:
            arrays: equally many everywhere, each of the same shape and floating dtype; None where one is missing.
            like: arrays of the same shapes and dtypes, none missing; needed only where arrays may be missing.
            purpose: tells apart what may be averaged at the same time, for groups to which the order is not enough.

        Raises:
            ValueError: an array is sparse, or is missing without `like`.
        """

    @abstractmethod
    def align(self, arrays: Sequence[T], *, purpose: str = "align") -> list[T]:
        """Return the leader's arrays, to the bit (but maybe for the sign of a zero)."""

    @abstractmethod
    def gather(self, part: T, lengths: Sequence[int], *, purpose: str = "gather") -> T:
        """Return all members' 1-D parts, one behind the other.

        Args:
            part: of `lengths[rank]` elements.
            lengths: of each member's part.
            purpose: see `average`.
        """

    def close(self) -> None:
        """Let go of what was made for this object; not collective."""
