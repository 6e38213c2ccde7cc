"""docs/rules.md: tables and a picture of what was measured."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from bench.rules.cells import SEEDS, TEAM, WORKERS, Row, rows
from bench.rules.tasks import TASKS

if TYPE_CHECKING:
    from bench.rules.runs import Results

PAGE_TASKS = ("cnn", "lstm", "gpt")

DRAWN = ("one worker", "elastic", "**the default**")
"""Parts of the labels of what is drawn."""

INTRODUCTION = f"""# What the shared weights are worth

An update rule is good if the shared weights are as good as those of synchronous training on the same samples.
`make rules` trains three real models by each rule, in virtual time with the averaging code of a real job, and writes
this page; what was measured is in `bench/rules/results.jsonl`, and only what is missing there is run. All of it takes
many hours on two cores; `python -m bench.rules --task lstm --workers 4` runs a part, and
`python -m bench.rules compare --help` compares any rules and settings.

* *cnn*: two convolutions with batch normalization, Fashion-MNIST, SGD with momentum 0.9, weight decay 5e-4, batches of
  32, 7,500 steps of all workers together, a tenth of the rate in the last fifth. Percent of 10,000 test pictures.
* *lstm*: an LSTM of 96 units on the characters of Shakespeare, Adam, batches of 16 windows of 32, 4,000 steps, cosine.
  Nats for each character of the test text, with a minus: more is better.
* *gpt*: a GPT of 0.8 million parameters on the same text, AdamW (0.9, 0.95), batches of 8 windows of 64, 8,000 steps
  (2,000 for each of 4 workers), cosine. Nats, as above.

All runs of a task see the same number of samples, so p workers take a p-th of the steps each. Every worker has the
batch and the learning rate that were best for one worker alone, of a few that are about a factor of two apart.
Synchronous runs average the gradients of p such batches (each normalized by itself), and their rate is tuned: the best
one, in bold, is what the others are measured against (in brackets). In groups of {TEAM} each worker has a batch of its
own, and the rate is twice as large, as for any batch four times as large; between the groups it is the default. DiLoCo
is synchronous too; its workers never wait here, which flatters it. Exchanges overlap with compute; the time of a step
varies by a tenth. Mean of {SEEDS} seeds and half their spread; a cell with fewer seeds says so, and a cell that was not
run yet has a dash.
"""

TRIED = """## What was tried, and is not here

A smaller net (an MLP of 19,882 weights on Fashion-MNIST, SGD with momentum 0.9, 16 workers, exchanges every 4th / 16th
step) tells rules apart in seconds; one or two seeds. Percent, in a simulation of its own that is not part of Modum:

| rule | every 4th step | every 16th step |
|---|---|---|
| synchronous, rate x 8 | 86.84 | |
| **drift** | 86.1 | 85.9 |
| elastic, a = 0.9 / p | 83.6 | 83.1 |
| elastic at a rate x sqrt(p) | 82.0 | 69.0 |
| local SGD without waiting: workers push W - B, and take G | 83.1 | 83.8 |
| the same with outer steps twice as long; with an outer momentum | diverge | diverge |
| delayed Nesterov (arXiv 2401.09135) | | 84.1 |
| HALoS (arXiv 2506.04531), its authors' constants | | 68.1 |
| Downpour, divided by staleness | 82.3 | |
| gossip between pairs | 84.4 | |

* *What follows an old base diverges.* A push of W - B arrives after others have moved G. Its gain has to stay below 1
  where the loss is steep, whatever the momentum; elastic averaging and the drift measure against the present G.
* *Adam's moments* are better left alone: first moments that are averaged without the second ones diverge, and both
  together cost three times the bytes (a GPT of 30,000 parameters, 8 workers, every 4th step: 1.90 for 1.96).
* *A drift with Adam* helps that small GPT (4 workers: 0.01 nats every step, 0.04 every 4th) and hurts the LSTM (8
  workers: 0.01 to 0.035); one seed. It is left to SGD.
* *Going back by as little as the shared weights move* (b = a, as in the paper) leaves many workers far apart: with 32,
  the LSTM ends at 2.13 nats, and at 1.94 with b = 1 - a (rate x 32, every step, one seed). With a drift at every
  exchange, 16 steps apart, b = 1 - a diverges (69 and 75 % for 86, the smaller net); half the way does not.
* *A rotating quarter of the weights in each exchange* costs 1.5 points; the largest hundredth of the differences, with
  error feedback, 0.6, where int8 costs 0.3 (the smaller net, every 16th step).
"""


def write(results: Results, image: Path) -> str:
    """Return the page.

    Args:
        results: what was measured.
        image: where the picture goes.
    """
    tables = [table(task, results) for task in PAGE_TASKS]
    _draw(results, image)
    picture = f"![The default against the best tuned synchronous run](images/{image.name})\n"
    return "\n".join([INTRODUCTION, picture, *tables, TRIED])


def table(task: str, results: Results) -> str:
    """Return a task's table in Markdown."""
    lines = [f"## {task}", "", "| | " + " | ".join(f"{count} workers" for count in WORKERS) + " |"]
    lines.append("|---|" + "---|" * len(WORKERS))
    best = {count: best_of(task, count, results) for count in WORKERS}
    for row in rows(task):
        cells = [_cell(row, count, best[count], results) for count in WORKERS]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def best_of(task: str, workers: int, results: Results) -> float | None:
    """Return the mean of the best tuned synchronous run, if there is any."""
    values = [_values(row, workers, results) for row in rows(task) if row.synchronous]
    return max((mean(each) for each in values if each), default=None)


def _values(row: Row, workers: int, results: Results) -> list[float]:
    return [results[run] for run in row.seeded(workers) if run in results]


def _cell(row: Row, workers: int, best: float | None, results: Results) -> str:
    values = _values(row, workers, results)
    if not values:
        return "-"
    digits = 2 if TASKS[row.runs[workers].task].unit == "%" else 3
    middle = mean(values)
    text = f"{middle:.{digits}f}"
    if best is not None and row.synchronous and middle == best:
        text = f"**{text}**"
    elif best is not None and not row.synchronous:
        text += f" ({middle - best:+.{digits}f})"
    if len(values) == SEEDS:
        return f"{text} ± {(max(values) - min(values)) / 2:.{digits}f}"
    return f"{text}, {len(values)} seed{'s' if len(values) > 1 else ''}"


def _draw(results: Results, image: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PAGE_TASKS), figsize=(11, 3.4), layout="constrained")
    for axis, task in zip(axes, PAGE_TASKS, strict=True):
        for row in rows(task):
            if not any(shown in row.label for shown in DRAWN):
                continue
            points = [
                (count, mean(values) - best)
                for count in WORKERS
                if (values := _values(row, count, results)) and (best := best_of(task, count, results)) is not None
            ]
            if points:
                style = "o-" if "default" in row.label else "k:" if row.label == "one worker" else "x--"
                axis.plot(*zip(*points, strict=True), style, label=row.label.replace("**", ""))
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(
            title=task, xlabel="workers", ylabel=f"{TASKS[task].unit} above the best synchronous run", xscale="log"
        )
        axis.set_xticks(WORKERS, [str(count) for count in WORKERS])
        axis.minorticks_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=110)
    plt.close(figure)
