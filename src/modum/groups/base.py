"""The seam to a front end's collectives inside a group of workers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Group(ABC, Generic[T]):
    """Workers that step together. `T` is the array type of the front end: NumPy, PyTorch or TensorFlow.

    Every method is collective: all members call it, in the same order. Where arrays are mutable, a method may overwrite
    its arguments and return them; use the returned ones. If a member is missing, the others raise `DeadlineError`,
    or what the collective library raises, after the group's timeout.

    Attributes:
        rank: this worker's number in the group, from 0; member 0 is the leader.
        size: number of members.
    """

    rank: int
    size: int

    @abstractmethod
    def largest(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the element-wise maximum of all members' `values`, which have the same length everywhere."""

    @abstractmethod
    def broadcast(self, value: int) -> int:
        """Return the leader's `value` (signed, 64 bits)."""

    @abstractmethod
    def average(
        self, arrays: Sequence[T | None], like: Sequence[T] | None = None, *, purpose: str = "average"
    ) -> list[T | None]:
        """Average each array, such as a gradient, over all members.

        An array that only some members have counts as zero for the others, and all members get the mean; one that no
        member has stays None. So optimizers treat each parameter the same in all members.

        Args:
            arrays: the same number in all members, each of the same shape and floating dtype; None where one is absent.
            like: arrays of the same shapes and dtypes, none missing; needed only where arrays may be missing.
            purpose: distinguishes averages that may run at the same time, for groups where the order does not suffice.

        Returns:
            The means, in the order of `arrays`.

        Raises:
            ValueError: an array is sparse, or is missing without `like`.
        """

    @abstractmethod
    def align(self, arrays: Sequence[T], *, purpose: str = "align") -> list[T]:
        """Return the leader's arrays, bit for bit (except possibly the sign of a zero)."""

    @abstractmethod
    def gather(self, part: T, lengths: Sequence[int], *, purpose: str = "gather") -> T:
        """Concatenate all members' 1-D parts.

        Args:
            part: this member's `lengths[rank]` elements.
            lengths: length of each member's part.
            purpose: see `average`.

        Returns:
            The parts, 1-D, in the order of the ranks.
        """

    def close(self) -> None:
        """Release this object's resources; not collective."""
