"""Keep weights that are not finite out of the shared ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from modum.errors import NotFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from modum.parameters import Vector

__all__ = ["Guard", "Reaction", "mend"]

_log = logging.getLogger("modum")

Reaction = Literal["restore", "raise"]
"""What a worker does whose weights are not finite: take the shared ones anew, or end."""
PATIENCE = 100
"""Exchanges that have to be good after one that was not; else there is a cause that goes on."""


class Guard:
    """Looks at what a worker is about to exchange, and says what to do where it has NaN or infinity.

    Args:
        reaction: "restore": drop what was learned since the last exchange, and take the shared weights; "raise": end.
        restored: called once the shared weights were taken, to mend what the optimizer remembers; None: nothing is.

    Attributes:
        count: how often the shared weights were taken.

    Raises:
        ValueError: there is no such reaction.
    """

    def __init__(self, reaction: Reaction = "restore", restored: Callable[[], None] | None = None) -> None:
        if reaction not in get_args(Reaction):
            raise ValueError(f"on_nonfinite ({reaction!r}) must be one of {', '.join(map(repr, get_args(Reaction)))}")
        self._reaction = reaction
        self._restored = restored
        self._found: str | None = None
        self._last: int | None = None
        self.count = 0

    def passes(self, vectors: Iterable[Vector]) -> bool:
        """Return whether all numbers of the last snapshots are finite; runs on the thread of the transfers."""
        self._found = next(filter(None, (vector.nonfinite() for vector in vectors)), None)
        return self._found is None

    @property
    def found(self) -> bool:
        """Whether the last look found something."""
        return self._found is not None

    def react(self, step: int, exchanges: int, take: Callable[[], None]) -> None:
        """React to what a member of the group has found (collective).

        Args:
            step: local steps so far.
            exchanges: made so far.
            take: takes the shared weights.

        Raises:
            NotFiniteError: that is what was chosen, or it is too soon after the last time.
        """
        what = f"{self._found} has" if self._found else "another member of the group found"
        problem = f"{what} numbers that are not finite (NaN or infinity) after {step} local steps"
        if self._reaction == "raise":
            raise NotFiniteError(
                f'{problem}; they were kept out of the shared weights. HINT: on_nonfinite="restore" takes those and'
                " goes on; a lower learning rate, or gradients that are clipped, may avoid it"
            )
        if self._last is not None and exchanges - self._last < PATIENCE:
            raise NotFiniteError(
                f"{problem}, and had them {exchanges - self._last} exchanges ago too; they were kept out of the shared"
                " weights. HINT: take a lower learning rate, clip gradients, or look for the sample that makes them"
            )
        self._last = exchanges
        self.count += 1
        _log.warning("%s: it drops what it learned since its last exchange, and takes the shared weights", problem)
        take()
        if self._restored is not None:
            self._restored()


def mend(variables: Iterable[Any]) -> None:
    """Set what is not finite in an optimizer's variables to 0: with it, the next step would be no better.

    Args:
        variables: of Keras or TensorFlow; others than floating-point ones are left alone.
    """
    for variable in variables:
        value = np.asarray(variable.numpy())
        if "float" in str(value.dtype) and not np.isfinite(value).all():
            variable.assign(np.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0))
