"""The results of a simulation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from modum.simulate.record import Record
    from modum.simulate.scenario import Scenario
    from modum.simulate.training import Curve

SHOWN_QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Mean, median, 90 % and 99 % quantiles and maximum of some values; all 0 if there are none."""

    mean: float
    median: float
    p90: float
    p99: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """Return the distribution of some values."""
        if not len(values):
            return cls(mean=0.0, median=0.0, p90=0.0, p99=0.0, largest=0.0)
        numbers = np.asarray(values, np.float64)
        median, p90, p99 = np.quantile(numbers, SHOWN_QUANTILES)
        return cls(
            mean=float(numbers.mean()),
            median=float(median),
            p90=float(p90),
            p99=float(p99),
            largest=float(numbers.max()),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The result of `simulate`. Times are virtual seconds."""

    scenario: Scenario
    seconds: float
    """Until the last step was in the shared weights and every group had done its last exchange."""
    finished: bool
    """Whether all steps were done; false if all workers failed before."""
    steps: int
    """Local steps of all workers that are in the shared weights."""
    goodput: float
    """Those steps, per second."""
    efficiency: float
    """Goodput divided by the total speed of all planned workers: 1 if none ever waited."""
    exchanges: int
    exchange_seconds: Distribution
    interval: Distribution
    """Local steps between exchanges."""
    staleness: Distribution
    """Exchanges of others between two of one group."""
    put_off: int
    """Exchanges that were put off because the previous one still ran; compute went on."""
    failures: int
    lost_steps: int
    traffic: float
    """Bytes per second, in and out of all workers together."""
    busy: float | None
    """Fraction of the time in which any exchange was under way; None for a synchronous job."""
    curve: Curve | None = None
    record: Record = field(repr=False, compare=False)
    """Every single value."""

    @classmethod
    def of(
        cls,
        scenario: Scenario,
        record: Record,
        *,
        seconds: float,
        finished: bool,
        steps: int,
        nbytes: float,
        busy_seconds: float | None,
        curve: Curve | None,
    ) -> Report:
        """Summarize a record; `seconds` is how long the job took."""
        cluster = scenario.cluster
        missed = sum(min(begin, seconds) for begin in record.begin) * cluster.group_size / scenario.step_seconds
        return cls(
            scenario=scenario,
            seconds=seconds,
            finished=finished,
            steps=min(steps, scenario.steps * cluster.workers),
            goodput=steps / seconds,
            efficiency=float(steps / (scenario.speed * seconds - missed)),
            exchanges=len(record.staleness),
            exchange_seconds=Distribution.of(record.exchange_seconds),
            interval=Distribution.of(record.intervals),
            staleness=Distribution.of(record.staleness),
            put_off=record.put_off,
            failures=record.failures,
            lost_steps=record.lost_steps,
            traffic=nbytes / seconds,
            busy=None if busy_seconds is None else busy_seconds / seconds,
            curve=curve,
            record=record,
        )

    def throughput(self, parts: int = 60) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the steps per second in each of `parts` equal parts of the time, as (middles, rates)."""
        counts, edges = np.histogram(
            self.record.step_ends, bins=parts, range=(0.0, self.seconds), weights=self.record.step_counts
        )
        return (edges[1:] + edges[:-1]) / 2, counts / (self.seconds / parts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: all except the individual values; the curve as two lists."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name not in ("record", "curve")}
        result = {
            name: asdict(value) if hasattr(value, "__dataclass_fields__") else value for name, value in shown.items()
        }
        if self.curve is not None:
            result["curve"] = {"seconds": list(self.curve.seconds), "accuracy": list(self.curve.accuracy)}
        return result
