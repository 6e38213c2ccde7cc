"""`python -m bench.rules`: train by each rule in virtual time, and see how good the shared weights are."""

from pathlib import Path
from statistics import mean
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.rules.cells import SEEDS, WORKERS, rows
from bench.rules.report import PAGE_TASKS, write
from bench.rules.runs import SYNCHRONOUS, Results, Run
from bench.rules.tasks import TASKS

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "results.jsonl"
SCALES = ("1", "2", "4", "8", "16")
"""Factors on the learning rate that synchronous runs are tuned over."""
RULES = ("auto auto", "elastic none", "elastic sqrt", "elastic linear", "drift none", "drift sqrt")
"""Rules and what they do with the learning rate."""

app = typer.Typer(add_completion=False, invoke_without_command=True)


def _listed(text: str, separator: str = ",") -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _measure(kept: Results, runs: list[Run]) -> None:
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("runs", total=sum(run not in kept for run in set(runs)))
        for _ in kept.measure(sorted(runs, key=lambda run: (run.seed, run.task, run.workers))):
            progress.advance(bar)


@app.callback()
def page(
    context: typer.Context,
    task: Annotated[str, typer.Option(metavar="NAME,...", help="Of what is missing, run these tasks.")] = ",".join(
        PAGE_TASKS
    ),
    workers: Annotated[str, typer.Option(metavar="N,...", help="And these numbers of workers.")] = ",".join(
        map(str, WORKERS)
    ),
    seeds: Annotated[int, typer.Option(min=1, max=SEEDS, help="And so many seeds.")] = SEEDS,
    draw: Annotated[bool, typer.Option("--draw", help="Run nothing: write the page of what there is.")] = False,
) -> None:
    """Measure what is missing of docs/rules.md, and write the page."""
    if context.invoked_subcommand is not None:
        return
    kept = Results(KEPT)
    if not draw:
        counts = [int(count) for count in _listed(workers)]
        cells = [row.seeded(count)[:seeds] for name in _listed(task) for row in rows(name) for count in counts]
        _measure(kept, [run for cell in cells for run in cell])
    (ROOT / "docs" / "rules.md").write_text(write(kept, ROOT / "docs" / "images" / "rules.png"))


@app.command()
def compare(
    task: Annotated[str, typer.Option(metavar="NAME,...", help=f"Of {', '.join(TASKS)}.")] = "cnn,lstm,gpt",
    workers: Annotated[str, typer.Option(metavar="N,...", help="Workers in all.")] = "4,8,16",
    group_size: Annotated[int, typer.Option(min=1, help="Workers of a group.")] = 1,
    interval: Annotated[str, typer.Option(metavar="K,...", help="Local steps between exchanges.")] = "1,4,16",
    rules: Annotated[
        str, typer.Option(metavar='"RULE SCALE;..."', help="Rules as `modum simulate` takes them, and the scale.")
    ] = ";".join(RULES),
    scales: Annotated[str, typer.Option(metavar="X,...", help="Factors of synchronous runs.")] = ",".join(SCALES),
    slowdown: Annotated[float, typer.Option(min=1.0, help="How much slower one worker is.")] = 1.0,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of everything.")] = 3,
    results: Annotated[Path, typer.Option(help="Where results are kept; what is there is not run again.")] = KEPT,
) -> None:
    """Compare update rules at equal samples with synchronous training, whose learning rate is tuned."""
    kept = Results(results)
    counts = [int(count) for count in _listed(workers)]
    tables: dict[tuple[str, int], list[tuple[str, list[Run]]]] = {}
    for name in _listed(task):
        for count in [1, *counts]:
            compared = tables[name, count] = []
            for scale in _listed(scales) if count > 1 else ("0.5", "1", "2"):
                single = Run(task=name, workers=count, scale=scale)
                compared.append((f"synchronous, rate x {scale}", _seeded(single, seeds)))
            for text in _listed(rules, ";") if count > 1 else ():
                rule, _, scale = text.rpartition(" ")
                for steps in _listed(interval):
                    run = Run(
                        task=name,
                        workers=count,
                        group_size=group_size,
                        rule=rule,
                        interval=int(steps),
                        scale=scale,
                        slowdown=slowdown,
                    )
                    compared.append((f"{rule}, rate {scale}, every {steps}", _seeded(run, seeds)))
    _measure(kept, [run for compared in tables.values() for _, several in compared for run in several])
    console = Console()
    for (name, count), compared in tables.items():
        best = max(mean(kept[run] for run in several) for _, several in compared if several[0].rule == SYNCHRONOUS)
        table = Table(title=f"{name}, {count} workers", title_justify="left")
        for column in ("", TASKS[name].unit, "spread +-", "to the best synchronous"):
            table.add_column(column, justify="left" if not column else "right")
        for label, several in compared:
            values = [kept[run] for run in several]
            spread = (max(values) - min(values)) / 2
            table.add_row(label, f"{mean(values):.3f}", f"{spread:.3f}", f"{mean(values) - best:+.3f}")
        console.print(table)


def _seeded(run: Run, seeds: int) -> list[Run]:
    return [Run(**{**vars(run), "seed": seed}) for seed in range(seeds)]


if __name__ == "__main__":
    app(prog_name="python -m bench.rules")
