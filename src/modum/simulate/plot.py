"""Draw simulated jobs: speed, exchanges, staleness, and accuracy if they trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from modum.simulate.report import Report

BINS = 60


def draw(reports: Sequence[Report], file: Path) -> None:
    """Write a PNG with a line for each report."""
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), layout="constrained")
    (speed, alive), (exchange, last) = axes
    training = any(report.curve is not None for report in reports)
    for report in reports:
        synchronous, record = report.scenario.synchronous, report.record
        middles, rates = report.throughput()
        (line,) = speed.plot(middles, rates, label=report.scenario.rule)
        colour = line.get_color()
        alive.step([*record.alive_times, report.seconds], [*record.alive, record.alive[-1]], where="post", color=colour)
        if not synchronous:  # waits of a synchronous job are nearly all alike
            _histogram(exchange, record.exchange_seconds, colour)
        if report.curve is not None:
            last.plot(report.curve.seconds, report.curve.accuracy, color=colour)
        elif not training and not synchronous:
            _histogram(last, record.staleness, colour)
    ideal = reports[0].scenario.speed
    speed.axhline(ideal, color="grey", linestyle="--", linewidth=1, label="nobody ever waits")
    speed.set(title="speed", xlabel="virtual seconds", ylabel="steps/s", ylim=(0, 1.15 * ideal))
    speed.legend()
    alive.set(title="workers that take part", xlabel="virtual seconds")
    alive.set_ylim(bottom=0)
    exchange.set(title="exchanges", xlabel="seconds", ylabel="density")
    if training:
        last.set(title="accuracy of the shared weights", xlabel="virtual seconds")
    else:
        last.set(title="staleness", xlabel="exchanges of others between two of one group", ylabel="density")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _histogram(axes: Axes, values: Sequence[float], colour: str) -> None:
    end = max(values, default=0.0) or 1.0
    axes.hist(values, bins=BINS, range=(0.0, 1.02 * end), histtype="step", density=True, color=colour)
