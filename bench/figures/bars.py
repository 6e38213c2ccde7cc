"""The bars that the figures are held against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.figures.definitions import FIGURES, LARGE_EXCHANGE, MODELS, SERVERS, SINGLE, TARGET
from bench.figures.predict import predict
from bench.row import Row

if TYPE_CHECKING:
    from bench.cluster.case import Case
    from bench.cluster.run import Measured
    from bench.figures.definitions import Line
    from bench.figures.results import Results

IN_A_ROW = 2
"""So many copies of the weights in a row must have reached an accuracy: one may be luck."""


def measured(results: Results, line: Line, x: int) -> Measured | None:
    """What was measured for a line at x, if it was."""
    case = line.cases.get(x)
    result = results[case] if case is not None else None
    return None if result is None else result.measured


def line(figure: str, name: str) -> Line:
    """A line of a figure."""
    return next(line for line in FIGURES[figure].lines if line.name == name)


def bandwidth(case: Case, found: Measured) -> float:
    """Bytes per second that all clients of a pool had, one way."""
    return found.steps * case.nbytes / found.seconds


def reached(curve: list[tuple[float, float]], target: float) -> float | None:
    """Seconds until the accuracy was at least ``target`` for the first time of `IN_A_ROW`; None: never."""
    for index in range(len(curve) - IN_A_ROW + 1):
        if all(accuracy >= target for _, accuracy in curve[index : index + IN_A_ROW]):
            return curve[index][0]
    return None


def final(curve: list[tuple[float, float]]) -> float:
    """The mean of the last three accuracies."""
    last = [accuracy for _, accuracy in curve[-3:]]
    return sum(last) / len(last)


def bars(results: Results) -> Iterator[Row]:
    """A row for each bar whose cases have been measured."""
    yield from _efficiency(results, "resnet", "box, 1 server", 8, 0.97, "8 nodes at the original's ratio")
    yield from _efficiency(results, "iteration", "box, 1 server", 8, 0.95, "8 nodes, network ten times slower, auto")
    yield from _efficiency(results, "unequal", "box", 8, 0.95, "one of eight four times slower, of summed speed")
    yield from _efficiency(results, "inception", "box, groups of 4", 16, 13.6 / 16, "16 workers in groups of 4")
    for figure, x, ours, bar in (
        ("resnet", 8, "box, 1 server", 1.35),
        ("iteration", 8, "box, 1 server", 1.35),
        ("inception", 16, "box, groups of 4", 2.0),
    ):
        box = measured(results, line(figure, ours), x)
        tensorflow = measured(results, line(figure, "TensorFlow PS"), x)
        if box and tensorflow:
            detail = f"efficiency {box.efficiency:.3f} against {tensorflow.efficiency:.3f}"
            ratio = box.efficiency / tensorflow.efficiency
            yield Row(what=f"{figure}: box over TensorFlow PS", measured=ratio, at_least=bar, detail=detail)
    yield from _pool(results)
    for model in MODELS:
        yield from _learning(results, model)
    yield from _predictions(results)


def _efficiency(results: Results, figure: str, name: str, x: int, bar: float, what: str) -> Iterator[Row]:
    found = measured(results, line(figure, name), x)
    if found:
        detail = f"{found.efficiency * x:.2f} of {x}" if figure != "unequal" else f"{found.steps:.1f} steps"
        yield Row(what=f"efficiency of the box: {what}", measured=found.efficiency, at_least=bar, detail=detail)


def _pool(results: Results) -> Iterator[Row]:
    most = SERVERS[-1]
    for one in FIGURES["memory"].lines:
        # what a single server carries does not depend on the size
        first = line("memory", "exchange" if one.name == LARGE_EXCHANGE else one.name)
        single, pool = measured(results, first, 1), measured(results, one, most)
        if single and pool:
            speeds = bandwidth(first.cases[1], single), bandwidth(one.cases[most], pool)
            yield Row(
                what=f"pooled memory, {one.name}: {most} servers over {most} times one",
                measured=speeds[1] / speeds[0] / most,
                at_least=0.95,
                detail=f"{speeds[1] / 1e6:.1f} MB/s against {speeds[0] / 1e6:.1f} MB/s",
            )


def _learning(results: Results, model: str) -> Iterator[Row]:
    box = measured(results, line(model, "box"), 8)
    if not box:
        return
    target = TARGET[model]
    ours = reached(box.curve, target)
    for name in ("gloo DDP", "TensorFlow PS"):
        other = measured(results, line(model, name), 8)
        if not other or ours is None:
            continue
        theirs = reached(other.curve, target)
        # one that did not get there in its time took longer than that
        seconds = other.curve[-1][0] if theirs is None else theirs
        detail = f"{ours:.0f} s against {'more than ' if theirs is None else ''}{seconds:.0f} s"
        what = f"{model}: time to {target:.0%}, {name} over the box"
        yield Row(what=what, measured=seconds / ours, at_least=2.3, detail=detail)
    single = measured(results, line(model, SINGLE), 1)
    if single:
        points = 100 * (final(single.curve) - final(box.curve))
        detail = f"{final(box.curve):.2%} against {final(single.curve):.2%}"
        what = f"{model}: final accuracy, a single worker's less the box's"
        yield Row(what=what, measured=points, unit="points", at_most=0.5, detail=detail)


def _predictions(results: Results) -> Iterator[Row]:
    errors = {describe(case): abs(prediction_error(case, found)) for case, found in predicted_cases(results)}
    if errors:
        worst = max(errors, key=lambda case: errors[case])
        what = f"simulation: the worst of {len(errors)} configurations"
        yield Row(what=what, measured=100 * errors[worst], unit="%", at_most=10, detail=worst)


def prediction_error(case: Case, found: Measured) -> float:
    """By what part of the measured efficiency the simulated one is off."""
    prediction = predict(case)
    assert prediction is not None
    return prediction.efficiency / found.efficiency - 1


def predicted_cases(results: Results) -> list[tuple[Case, Measured]]:
    """The measured cases of which `modum simulate` says something, each once."""
    cases = dict.fromkeys(case for figure in FIGURES.values() for case in figure.cases)
    found = [(case, results[case]) for case in cases if case.accuracy is None and predict(case) is not None]
    return [(case, result.measured) for case, result in found if result is not None and result.measured is not None]


def describe(case: Case) -> str:
    """A case in a few words."""
    workers = f"{case.workers} worker{'s' if case.workers > 1 else ''}"
    rate = "" if case.rate is None else f", {8 * case.rate / 1e6:.0f} Mbit/s"
    servers = f", {case.servers} servers" if case.system == "box" and case.servers > 1 else ""
    groups = f", groups of {case.group_size}" if case.group_size > 1 else ""
    slow = f", {case.slow} of them {case.slowdown:g} times slower" if case.slow else ""
    interval = f", interval {case.interval}" if case.system == "box" else ""
    return f"{case.system}, {workers}{groups}{slow}{servers}, {case.nbytes / 1e6:.1f} MB{rate}{interval}"
