"""`python -m bench.figures`: measure on the emulated cluster, draw, and write docs/figures.md."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from bench.cluster.run import ClusterError, missing_for, run, unavailable
from bench.figures.bars import bars, describe
from bench.figures.definitions import FIGURES
from bench.figures.draw import draw
from bench.figures.report import write
from bench.figures.results import Results
from bench.machine import describe as describe_machine
from bench.processes import ROOT

PACKAGES = ("modum", "torch", "tensorflow", "mpi4py", "mpich", "hivemind", "torchft", "deepspeed")

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command(epilog="\n".join(f"- **{name}**: {figure.about}" for name, figure in FIGURES.items()))
def figures(
    only: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Which to measure; they are listed below.", show_default="all"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure what has been measured before, too.")] = False,
    most: Annotated[int | None, typer.Option(help="Only cases of at most so many workers.", show_default="all")] = None,
    system: Annotated[str | None, typer.Option(help="Only cases of this system.", show_default="all")] = None,
    line: Annotated[str | None, typer.Option(help="Only the line of this name.", show_default="all")] = None,
    draw_only: Annotated[bool, typer.Option("--draw", help="Measure nothing; draw and write.")] = False,
) -> None:
    """Measure the figures of docs/figures.md, draw them and write the page.

    Results are kept in bench/figures/results.json: a run that was stopped goes on where it was. Needs root and an
    otherwise idle machine; about two hours for everything.
    """
    chosen = [name.strip() for name in only.split(",")] if only else list(FIGURES)
    if unknown := [name for name in chosen if name not in FIGURES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(FIGURES)}", param_hint="--only")
    results = Results()
    console = Console(stderr=True)
    if not draw_only:
        if reason := unavailable():
            print(f"error: no cluster can be made here: {reason}", file=sys.stderr)
            raise typer.Exit(1)
        lines = [each for name in chosen for each in FIGURES[name].lines if line in (None, each.name)]
        cases = dict.fromkeys(case for each in lines for case in each.cases.values())
        wanted = [
            case
            for case in cases
            if (again or results[case] is None)
            and case.workers <= (most or case.workers)
            and system in (None, case.system)
        ]
        machine = "; ".join(value for name, value in describe_machine(PACKAGES).items() if name != "date")
        for number, case in enumerate(wanted):
            print(f"{number + 1} of {len(wanted)}: {describe(case)}", flush=True)
            try:
                if missing := missing_for(case):
                    results.put(case, machine, None, f"{missing} is not installed")
                    continue
                found = run(case)
                results.put(case, machine, found)
                print(f"  {found.steps:.1f} steps in {found.seconds:.0f} s, efficiency {found.efficiency:.3f}, "
                      f"busy {found.busy:.0%}, late {found.late:.0%} {found.details}", flush=True)  # fmt: skip
            except ClusterError as error:
                print(f"  failed: {error}", file=sys.stderr)
                results.put(case, machine, None, str(error).splitlines()[-1])
    images = ROOT / "docs" / "images"
    for name, figure in FIGURES.items():
        if any(results[case] is not None for case in figure.cases):
            draw(name, figure, results, images / f"figure-{name}.png")
    (ROOT / "docs" / "figures.md").write_text(write(results))
    for row in bars(results):
        console.print(
            f"{'yes' if row.ok else 'NO ':4} {row.what}: {row.figure} ({row.bar}; {row.detail})", highlight=False
        )


if __name__ == "__main__":
    app(prog_name="python -m bench.figures")
