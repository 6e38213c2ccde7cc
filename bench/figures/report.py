"""docs/figures.md: the figures with their tables, the bars, and what the simulation says of each case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.figures.bars import bandwidth, bars, describe, final, predicted_cases, prediction_error, reached
from bench.figures.definitions import FIGURES, SLOW, TARGET
from bench.figures.predict import predict
from bench.figures.scale import NBYTES, SECONDS, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.cluster.case import Case
    from bench.cluster.run import Measured
    from bench.figures.definitions import Figure
    from bench.figures.results import Results

INTRODUCTION = f"""# The figures of the original platform, measured again

`make figures` measures what is on this page, draws the pictures and writes the page; every number that was
measured is in `bench/figures/results.json`. It needs Linux and root, two cores, 8 GB of memory, and an otherwise
idle machine for about two hours. `python -m bench.figures --only resnet` measures one figure, `--draw`
none.

The cluster is emulated on one machine: hosts are network namespaces joined by a switch, each behind a full-duplex
link that is shaped (`tc tbf`). A worker computes real gradients of a small model and sleeps until the time is over
that a GPU would take: a third of it forward, layer by layer, and two thirds backward, so that whoever sends gradients
while others are computed can do so. Model bytes, link speed and step time are scaled together. The original has
ResNet-50 (100 MB of parameters), steps of 200 ms and links of 7 GB/s; here it is {NBYTES / 1e6:.1f} MB,
{SECONDS:g} s and {8 * rate() / 1e9:.2f} Gbit/s. A network ten times slower has {8 * SLOW / 1e6:.0f} Mbit/s.

Peers run as their own documentation has it. DistributedDataParallel over gloo, with its default buckets, which are the
gradients; one mpi4py all-reduce of all gradients after the backward pass (MPICH over TCP); TensorFlow's
ParameterServerStrategy with one coordinator and one parameter server on a host of its own, variables round-robin. All
move gradients at every step; TensorFlow does so asynchronously. hivemind, torchft and DeepSpeed want an environment of
their own: `python3 -m venv peers`, `peers/bin/pip install -e '.[figures,peers]'`,
`peers/bin/python -m bench.figures --only peers`. MPI polls while it waits, and so keeps the cores busy.

*Efficiency* is the steps of all workers in a second over the sum of those of workers that never wait. *Sent* is what
all hosts together put on their links for a step of one worker, counted at the switch. *Busy* is the part of the
machine's cores that was not idle: where it is high, the cores are measured too, not only the links.
"""


def write(results: Results) -> str:
    """The page."""
    parts = [INTRODUCTION, _bars(results)]
    parts += [_figure(name, figure, results) for name, figure in FIGURES.items() if _any(figure, results)]
    parts.append(_predictions(results))
    parts.append(_machines(results))
    return "\n".join(parts)


def _any(figure: Figure, results: Results) -> bool:
    return any(results[case] for case in figure.cases)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first column is words, the others are numbers."""
    lines = [f"| {' | '.join(headings)} |", f"|---|{'---:|' * (len(headings) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _bars(results: Results) -> str:
    rows = [[row.what, row.figure, row.bar, "yes" if row.ok else "**no**", row.detail] for row in bars(results)]
    return "## Bars\n\n" + table(["", "measured", "bar", "met", ""], rows)


def _figure(name: str, figure: Figure, results: Results) -> str:
    rows, failures = [], []
    for line in figure.lines:
        for x, case in line.cases.items():
            result = results[case]
            if result is None:
                continue
            if result.measured is None:
                failures.append(f"* {line.name}, {x} {figure.x}: {result.failure}")
            else:
                rows.append([line.name, str(x), *_row(name, case, result.measured)])
    heading = ["", figure.x, *_headings(name)]
    notes = "\n".join(failures) + "\n" if failures else ""
    above = f"{figure.note}\n\n" if figure.note else ""
    picture = f"![{figure.about}](images/figure-{name}.png)"
    return f"## {figure.title}\n\n{picture}\n\n{above}{table(heading, rows)}\n{notes}"


def _headings(name: str) -> list[str]:
    if name == "memory":
        return ["MB/s, one way", "per server", "busy"]
    if name in TARGET:
        return [f"seconds to {TARGET[name]:.0%}", "final accuracy", "seconds per step", "sent, MB per step", "busy"]
    return ["seconds per step", "efficiency", "interval", "exchange, s", "sent, MB per step", "busy"]


def _row(name: str, case: Case, found: Measured) -> list[str]:
    busy = f"{found.busy:.0%}"
    if name == "memory":
        speed = bandwidth(case, found) / 1e6
        return [f"{speed:.1f}", f"{speed / case.servers:.1f}", busy]
    step = case.workers * found.seconds / found.steps
    sent = f"{sum(found.sent) / found.steps / 1e6:.2f}"
    if name in TARGET:
        seconds = reached(found.curve, TARGET[name])
        text = f"more than {found.curve[-1][0]:.0f}" if seconds is None else f"{seconds:.0f}"
        return [
            text if case.rate is not None else "",  # on no cluster, its time says nothing
            f"{final(found.curve):.2%}",
            f"{step:.3f}",
            sent,
            busy,
        ]
    details = found.details
    box = [f"{details['interval']:.1f}", f"{details['exchange_seconds']:.2f}"] if details else ["", ""]
    return [f"{step:.2f}", f"{found.efficiency:.3f}", *box, sent, busy]


def _predictions(results: Results) -> str:
    rows = []
    for case, found in predicted_cases(results):
        prediction = predict(case)
        assert prediction is not None
        exchange = found.details.get("exchange_seconds") if case.system == "box" else None
        rows.append(
            [
                describe(case),
                f"{prediction.efficiency:.3f}",
                f"{found.efficiency:.3f}",
                f"{100 * prediction_error(case, found):+.1f} %",
                "" if exchange is None else f"{prediction.exchange_seconds:.2f}",
                "" if exchange is None else f"{exchange:.2f}",
            ]
        )
    head = ["case", "efficiency, simulated", "measured", "off by", "exchange, simulated, s", "measured, s"]
    text = (
        "`modum simulate` with the bytes, links and step times of the cases above; the speeds of copies and of the "
        "loopback device are those of `bench/figures/predict.py`.\n"
    )
    return f"## The simulation against the emulated cluster\n\n{text}\n{table(head, rows)}"


def _machines(results: Results) -> str:
    """Where and when."""
    found = [results[case] for figure in FIGURES.values() for case in figure.cases]
    there = [result for result in found if result is not None]
    dates = sorted(result.date for result in there)
    machines = sorted({result.machine for result in there})
    when = f"{dates[0]} to {dates[-1]}" if dates else "never"
    return f"## Conditions\n\nMeasured {when} on:\n\n" + "\n".join(f"* {machine}" for machine in machines) + "\n"
