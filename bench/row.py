"""One line of the table."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        nbytes: size of the large transfers, whole float32 numbers.
        rounds: how often each side of a ratio is timed; the median counts.
    """

    nbytes: int = 100_000_000
    rounds: int = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure and its bar.

    Attributes:
        what: the subject.
        measured: the figure.
        unit: of the figure and the bar; empty for a plain ratio.
        at_least: the bar, or None.
        at_most: the bar, or None. A row without any bar only informs.
        detail: both sides in their own units, and how many threads each had.
        samples: everything that was timed, in seconds, by side.
    """

    what: str
    measured: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    detail: str = ""
    samples: dict[str, list[float]]

    @property
    def ok(self) -> bool | None:
        """Whether the bar is met; None if there is none."""
        if self.at_least is not None:
            return self.measured >= self.at_least
        return None if self.at_most is None else self.measured <= self.at_most

    @property
    def bar(self) -> str:
        """The bar in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}{self.suffix}"
        return "" if self.at_most is None else f"at most {self.at_most:g}{self.suffix}"

    @property
    def figure(self) -> str:
        """`measured`, with three digits that count and its unit."""
        digits = 0 if abs(self.measured) >= 100 else 1 if abs(self.measured) >= 10 else 2
        return f"{self.measured:.{digits}f}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The unit as it follows a number."""
        return f" {self.unit}" if self.unit else ""
