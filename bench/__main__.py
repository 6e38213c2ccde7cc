"""`python -m bench`: measure, and print one table."""

import os
from typing import Annotated

import typer
from rich.console import Console

from bench.machine import OtherLoad, describe
from bench.row import Effort, Row
from bench.suite import BENCHMARKS
from bench.table import Conditions, as_json, show
from modum.units import parse_bytes

# What Modum's own launcher gives its workers: spinning threads would take the cores from the other side.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command(epilog="\n".join(f"- **{name}**: {benchmark.about}" for name, benchmark in BENCHMARKS.items()))
def bench(
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Which to run; they are listed below.", show_default="all")
    ] = None,
    size: Annotated[str, typer.Option(help="Size of the large transfers, such as 100MB or 16MiB.")] = "100MB",
    rounds: Annotated[int, typer.Option(min=1, help="How often each side is timed.")] = Effort().rounds,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON with every single sample instead.")] = False,
) -> None:
    """Measure how fast Modum is here, and against whom, and how much memory it takes.

    Every row is a ratio or a figure with a bar; the sides of a ratio take turns within one run, and medians count. Run
    it on an otherwise idle machine: what others took of the cores stands above the table.

    Starts its own memory servers and peers, and needs nothing but loopback. Everything takes some minutes.
    """
    chosen = [name.strip() for name in only.split(",") if name.strip()] if only else list(BENCHMARKS)
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(BENCHMARKS)}", param_hint="--only")
    if missing := sorted({package for name in chosen for package in BENCHMARKS[name].missing}):
        raise typer.BadParameter(f"needs {', '.join(missing)}: pip install 'modum[bench]'", param_hint="--only")
    try:
        effort = Effort(nbytes=parse_bytes(size) // 4 * 4, rounds=rounds)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    load = OtherLoad()
    rows: dict[str, list[Row]] = {}
    errors = Console(stderr=True)
    with errors.status("") as status:
        for name in chosen:
            status.update(f"{name}: {BENCHMARKS[name].about}")
            rows[name] = list(BENCHMARKS[name].measure(effort))
    conditions = Conditions(describe(), effort, load.share())
    if as_data:
        print(as_json(conditions, rows))
    else:
        show(Console(), conditions, rows)


if __name__ == "__main__":
    app(prog_name="python -m bench")
