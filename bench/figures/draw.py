"""The pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

from bench.figures.bars import bandwidth, measured
from bench.figures.definitions import SINGLE, TARGET

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.figures.definitions import Figure
    from bench.figures.results import Results


def draw(name: str, figure: Figure, results: Results, file: Path) -> None:
    """Write a PNG."""
    mpl.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    kinds = {"iteration": _iterations, "memory": _bandwidths, "unequal": _shares, "peers": _shares}
    kind = kinds.get(name, _curves if name in TARGET else _speedups)
    kind(name, figure, results, axes)
    axes.set_title(figure.title, fontsize=10)
    pyplot.close(picture) if not axes.has_data() else picture.savefig(file, dpi=110)
    pyplot.close(picture)


def _iterations(name: str, figure: Figure, results: Results, axes: Axes) -> None:
    """Stacked bars: computing below, everything else above."""
    counts = sorted({x for line in figure.lines for x in line.cases})
    width = 0.8 / len(figure.lines)
    for number, line in enumerate(figure.lines):
        found = [(index, measured(results, line, x)) for index, x in enumerate(counts)]
        there = [(index + (number - len(figure.lines) / 2 + 0.5) * width, one) for index, one in found if one]
        if not there:
            continue
        places = [place for place, _ in there]
        steps = [_iteration_seconds(line.cases[counts[round(place)]], one) for place, one in there]
        compute = [
            min(line.cases[counts[round(place)]].step_seconds, step)
            for (place, _), step in zip(there, steps, strict=True)
        ]
        rest = [step - part for step, part in zip(steps, compute, strict=True)]
        axes.bar(places, compute, width, color="lightgrey", label="computing" if number == 0 else None)
        axes.bar(places, rest, width, bottom=compute, label=line.name)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_xlabel(figure.x)
    axes.set_ylabel("seconds per iteration")
    axes.legend(fontsize=8)


def _iteration_seconds(case: object, found: object) -> float:
    """Seconds of a worker's iteration: workers over their steps per second."""
    return case.workers * found.seconds / found.steps  # type: ignore[attr-defined,no-any-return]


def _bandwidths(name: str, figure: Figure, results: Results, axes: Axes) -> None:
    for line in figure.lines:
        found = {x: one for x in line.cases if (one := measured(results, line, x))}
        if found:
            speeds = [bandwidth(line.cases[x], one) / 1e6 for x, one in found.items()]
            (drawn,) = axes.plot(list(found), speeds, "o-", label=line.name)
            ends = [0, max(found)]
            straight = [speeds[0] / min(found) * x for x in ends]
            if len(found) > 1:
                axes.plot(ends, straight, "--", color=drawn.get_color(), linewidth=0.8)
    axes.set(xlabel=figure.x, ylabel="MB/s of all clients, one way", xlim=(0, None), ylim=(0, None))
    axes.legend()


def _speedups(name: str, figure: Figure, results: Results, axes: Axes) -> None:
    most = max(x for line in figure.lines for x in line.cases)
    axes.plot([1, most], [1, most], "--", color="grey", linewidth=0.8, label="nobody waits")
    for line in figure.lines:
        found = {x: one for x in line.cases if (one := measured(results, line, x))}
        axes.plot(list(found), [x * one.efficiency for x, one in found.items()], "o-", label=line.name)
    axes.set(xlabel=figure.x, ylabel="times the speed of one worker")
    axes.legend()


def _shares(name: str, figure: Figure, results: Results, axes: Axes) -> None:
    """Bars of the summed speed."""
    found = [(line.name, one) for line in figure.lines for x in line.cases if (one := measured(results, line, x))]
    if found:
        axes.barh([name for name, _ in found], [100 * one.efficiency for _, one in found])
        axes.invert_yaxis()
    axes.set(xlabel="% of the summed speeds of workers that never wait", xlim=(0, 100))


def _curves(name: str, figure: Figure, results: Results, axes: Axes) -> None:
    for line in figure.lines:
        for x in line.cases:
            one = measured(results, line, x)
            if one and one.curve and line.name != SINGLE:
                axes.plot([t for t, _ in one.curve], [100 * accuracy for _, accuracy in one.curve], label=line.name)
    axes.axhline(100 * TARGET[name], color="grey", linestyle="--", linewidth=0.8)
    axes.set(xlabel="seconds", ylabel="test accuracy, %", ylim=(50, 95))
    axes.legend()
