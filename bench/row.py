"""One line of the table."""

from dataclasses import dataclass, field


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
    """One figure and its bar: either `at_least` or `at_most`.

    Attributes:
        what: the subject.
        measured: the figure.
        unit: of the figure and the bar; empty for a plain ratio.
        at_least: the bar of what should be large.
        at_most: the bar of what should be small.
        detail: both sides in their own units.
        samples: everything that was timed, in seconds, by side.
        quiet: whether other processes left the machine alone; always, where no time is measured.
    """

    what: str
    measured: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    detail: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    quiet: bool = True

    def __post_init__(self) -> None:
        assert (self.at_least is None) != (self.at_most is None), "a row has one bar"

    @property
    def ok(self) -> bool:
        """Whether the bar is met."""
        if self.at_least is not None:
            return self.measured >= self.at_least
        assert self.at_most is not None
        return self.measured <= self.at_most

    @property
    def bar(self) -> str:
        """The bar in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}{self._suffix}"
        return f"at most {self.at_most:g}{self._suffix}"

    @property
    def figure(self) -> str:
        """`measured`, with three digits that count and its unit."""
        digits = 0 if abs(self.measured) >= 100 else 1 if abs(self.measured) >= 10 else 2
        return f"{self.measured:.{digits}f}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return f" {self.unit}" if self.unit else ""
