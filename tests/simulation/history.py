"""What clients asked for and were told, and whether that can be.

Sums are held by bits: every amount that is added has a bit of its own, with a free bit above it, so that a sum says
which amounts are in it, and how often.
"""

from collections import defaultdict
from dataclasses import dataclass, field

AMOUNTS = 31
"""How many amounts a sum of 64 bits has room for."""


class BrokenPromiseError(AssertionError):
    """The box did not keep its word."""


def amount_of(number: int) -> int:
    """Return the amount of this number: a bit of its own, with a free one above it."""
    return 1 << 2 * number


@dataclass
class Sum:
    """Amounts added to one number, by one or many clients."""

    name: str
    issued: int = 0
    acknowledged: int = 0

    def next(self) -> int | None:
        """Return a new amount, or None when there are none left."""
        number = self.issued.bit_count()
        if number >= AMOUNTS:
            return None
        amount = amount_of(number)
        self.issued |= amount
        return amount

    def check(self, seen: int, at_least: int, what: str) -> None:
        """Check what a client saw.

        Args:
            seen: the sum.
            at_least: what was acknowledged before the client asked.
            what: how it was seen, for the error.
        """
        if seen & ~self.issued:
            raise BrokenPromiseError(f"{what} of {self.name}: {seen:#x} has an amount twice, or one that nobody added")
        if at_least & ~seen:
            raise BrokenPromiseError(
                f"{what} of {self.name}: {seen:#x} lacks {at_least & ~seen:#x}, which was acknowledged"
            )


@dataclass
class Register:
    """A number that one client writes, upward."""

    name: str
    issued: int = 0
    acknowledged: int = 0
    doubtful: bool = False
    """Whether a write ended in doubt, over the box that the client has now."""
    haunted: bool = False
    """Whether the client left a box with a write in doubt: it may be applied late, on top of later ones."""

    def leave_box(self) -> None:
        """Note that the client goes on with another box."""
        self.haunted |= self.doubtful
        self.doubtful = False

    def check(self, seen: int, at_least: int, what: str) -> None:
        """Check a value that was read: not older than what was acknowledged before, not newer than what was written."""
        if not (0 if self.haunted else at_least) <= seen <= self.issued:
            raise BrokenPromiseError(
                f"{what} of {self.name}: {seen}, but {at_least} was acknowledged and {self.issued} is the last"
            )


@dataclass
class Holding:
    """Who may hold a lease, by the ticks at which that begins and ends for certain."""

    name: str
    holder: int = 0
    until: float = 0.0

    def take(self, holder: int, now: float, until: float) -> None:
        """Note that somebody was given the lease, which nobody else may hold then.

        Args:
            holder: who.
            now: when it was told so.
            until: when its hold ends for certain, unless it gives the lease back.
        """
        if self.until > now:
            raise BrokenPromiseError(f"client {holder} was given the {self.name} that client {self.holder} holds")
        self.holder, self.until = holder, until

    def release(self, holder: int) -> None:
        """Note that somebody is about to give the lease back."""
        if self.holder == holder:
            self.until = 0.0


@dataclass
class History:
    """Everything that was promised in a world."""

    sums: dict[str, Sum] = field(default_factory=dict)
    registers: dict[str, Register] = field(default_factory=dict)
    leases: dict[str, Holding] = field(default_factory=dict)
    done: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Items of a queue whose completion was acknowledged."""
    swaps: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By value: compare-and-set operations that were acknowledged as done, and those whose end is not known."""
    moved: dict[str, float] = field(default_factory=dict)
    """By buffer: what exchanges have taken from the clients' numbers; None once an exchange ended in doubt."""
    doubtful: set[str] = field(default_factory=set)
    dead: bool = False
    """Whether a server has died."""
    acknowledged: int = 0
    refused: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def sum(self, name: str) -> Sum:
        return self.sums.setdefault(name, Sum(name))

    def register(self, name: str) -> Register:
        return self.registers.setdefault(name, Register(name))
