"""What the workers of one training decide for all of them: to stop, and the learning rate."""

from typing import Any, Final

from modum.box import Box

__all__ = ["Control"]

_MOST_TEXT: Final = 400
"""Characters of a reason that are kept."""


class Control:
    """Small values in the box that all workers of a training follow; `Job.control` makes it.

    Every method and property asks the box, and so may raise what it raises when it is gone. Nobody is told: workers
    look, at the end of an epoch or of a block of samples.

    Args:
        box: where the values are kept, below `name`.
        name: the training's.
    """

    def __init__(self, box: Box, name: str) -> None:
        self._stop = box.value(f"{name}/stop")
        self._learning_rate = box.value(f"{name}/learning_rate")
        self._validator = box.value(f"{name}/validator")
        self._validation = box.value(f"{name}/validation")

    def stop(self, reason: str) -> None:
        """Ask all workers to stop; the first one's reason is kept.

        Args:
            reason: who stops, and why; for logs.
        """
        self._stop.set_default(reason[:_MOST_TEXT])

    @property
    def stopped(self) -> str | None:
        """The reason why all workers are to stop; None: they are not."""
        reason = self._stop.get()
        return None if reason is None else str(reason)

    @property
    def should_stop(self) -> bool:
        """Whether somebody has asked all workers to stop."""
        return self.stopped is not None

    @property
    def learning_rate(self) -> float | None:
        """The learning rate of all workers, without their own scale; None: nobody has set one."""
        rate = self._learning_rate.get()
        return None if rate is None else float(rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._learning_rate.set(float(rate))

    @property
    def validation(self) -> tuple[int, dict[str, float]] | None:
        """The newest results of a validation: the number of the epoch, and each by its name; None before the first."""
        found: Any = self._validation.get()
        return None if found is None else (int(found[0]), {str(name): float(each) for name, each in found[1].items()})

    @validation.setter
    def validation(self, found: tuple[int, dict[str, float]]) -> None:
        epoch, results = found
        self._validation.set([epoch, {name: float(each) for name, each in results.items()}])

    def validator(self, rank: int | None = None) -> int | None:
        """Return the rank of the worker whose validation counts: the first one that gives its rank here.

        Args:
            rank: of a worker that validates; None: only look.

        Returns:
            The rank that came first; None if there is none.
        """
        first = self._validator.get() if rank is None else self._validator.set_default(rank)
        return None if first is None else int(first)
