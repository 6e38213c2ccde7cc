"""`modum simulate`: run a job of thousands of workers in virtual time."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modum.cli.cluster_options import (
    Bus,
    Colocated,
    Copy,
    GroupSize,
    Interval,
    Latency,
    Link,
    Overlap,
    ServerLink,
    ServerMemory,
    Servers,
    Step,
    Workers,
    cluster_of,
)

if TYPE_CHECKING:
    from modum.simulate import Report

__all__ = ["app"]

app = typer.Typer()


@app.command()
def simulate(
    model: Annotated[str, typer.Argument(help="A model's file, or the size of its weights: 100MB.")] = "100MB",
    step: Step = "200ms",
    spread: Annotated[
        float, typer.Option(help="Standard deviation of a step's time over its mean; 0: all steps are alike.")
    ] = 0.1,
    distribution: Annotated[str, typer.Option(help="Of a step's time: lognormal, or exponential.")] = "lognormal",
    workers: Workers = 8,
    group_size: GroupSize = 1,
    servers: Servers = 1,
    colocated: Colocated = False,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="elastic (hybrid with groups), downpour, or allreduce, with settings if need be: "
            "elastic:moving_rate=0.1; may be given several times.",
            show_default="elastic",
        ),
    ] = None,
    interval: Interval = "auto",
    overlap: Overlap = True,
    steps: Annotated[int, typer.Option(help="Steps per worker, in the mean.")] = 200,
    link: Link = None,
    server_link: ServerLink = None,
    server_memory: ServerMemory = "10GB/s",
    bus: Bus = "10GB/s",
    copy: Copy = None,
    latency: Latency = None,
    stragglers: Annotated[
        str, typer.Option(metavar="COUNT[xFACTOR]", help="Slow workers: 1x4 is one that takes 4 times as long.")
    ] = "0",
    failures: Annotated[
        str | None, typer.Option(metavar="TIME", help="Mean time until a worker fails.", show_default="never")
    ] = None,
    replace: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="After so long there is another in its place.", show_default="never"),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(metavar="COUNT@TIME", help="So many of the workers come late: 4@30s.", show_default="none"),
    ] = None,
    seed: Annotated[int, typer.Option(help="What all random numbers come from.")] = 0,
    train: Annotated[
        bool, typer.Option("--train", help="Compute real gradients of a small classifier; compare accuracy.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw what happened.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every value, for programs.")] = False,
) -> None:
    """Simulate a job with up to 10,000 workers, in virtual time.

        modum simulate 100MB -n 1000 --servers 64 --step 200ms --stragglers 50x4 --rule elastic --rule allreduce

    Links are shared as TCP connections share them: each exchange gets an equal part. The same options and seed
    give the same numbers. With --train, virtual workers compute real gradients of a small classifier, so that
    rules can be compared by accuracy over virtual seconds.
    """
    import importlib.util

    needed = ("simpy", "greenlet", *(("matplotlib",) if plot else ()))
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        print(f"error: modum simulate needs {' and '.join(missing)}", file=sys.stderr)
        print("HINT: pip install 'modum[simulate]'", file=sys.stderr)
        raise typer.Exit(1)
    from modum.plan import model_bytes
    from modum.rules import Elastic
    from modum.simulate import Scenario
    from modum.simulate import simulate as run
    from modum.units import parse_seconds

    try:
        cluster = cluster_of(
            workers=workers,
            group_size=group_size,
            servers=servers,
            colocated=colocated,
            link=link,
            server_link=server_link,
            server_memory=server_memory,
            bus=bus,
            copy=copy,
            latency=latency,
        )
        slow, _, factor = stragglers.partition("x")
        late, _, when = (join or "0@0").partition("@")
        nbytes = model_bytes(model)
        scenarios = [
            Scenario(
                cluster=cluster,
                nbytes=nbytes,
                step_seconds=parse_seconds(step),
                spread=spread,
                distribution=distribution,  # type: ignore[arg-type]
                steps=steps,
                rule=name,
                interval="auto" if interval == "auto" else int(interval),
                overlap=overlap,
                stragglers=int(slow),
                slowdown=float(factor or 1),
                failure_seconds=None if failures is None else parse_seconds(failures),
                replace_seconds=None if replace is None else parse_seconds(replace),
                joiners=int(late),
                join_seconds=parse_seconds(when),
                seed=seed,
            )
            for name in rule or [Elastic.name]
        ]
        if plot is not None and plot.suffix.lower() != ".png":
            raise ValueError(f"--plot ({plot}) must end with .png")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    reports = [run(scenario, train=train) for scenario in scenarios]
    if plot is not None:
        from modum.simulate.plot import draw

        draw(reports, plot)
    if as_json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode([report.as_dict() for report in reports])).decode())
    else:
        _show(reports)
    if not all(report.finished for report in reports):
        print("error: a job ended before all its steps were done: its workers had failed", file=sys.stderr)
        raise typer.Exit(1)


def _show(reports: "list[Report]") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from modum.units import format_seconds, format_speed

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for report in reports:
        name = report.scenario.rule
        groups = report.scenario.cluster.group_size > 1
        table.add_column(f"{name}, hybrid" if groups and not report.scenario.synchronous else name, justify="right")

    def row(name: str, *values: str) -> None:
        table.add_row(name, *values)

    row("took", *(format_seconds(report.seconds) for report in reports))
    row("goodput, steps/s", *(f"{report.goodput:.4g}" for report in reports))
    row("efficiency", *(f"{report.efficiency:.1%}" for report in reports))
    row("interval, median and largest", *(f"{r.interval.median:g}, {r.interval.largest:g}" for r in reports))
    row(
        "exchange, median and 99 %",
        *(f"{format_seconds(r.exchange_seconds.median)}, {format_seconds(r.exchange_seconds.p99)}" for r in reports),
    )
    row("staleness, median and 99 %", *(f"{r.staleness.median:g}, {r.staleness.p99:g}" for r in reports))
    row("exchanges, put off", *(f"{r.exchanges}, {r.put_off}" for r in reports))
    row("failures, lost steps", *(f"{r.failures}, {r.lost_steps}" for r in reports))
    row("traffic, in and out", *(format_speed(r.traffic) for r in reports))
    curves = [report.curve for report in reports if report.curve is not None]
    if curves:
        # what all of them reached
        bar = min(max(curve.accuracy) for curve in curves)
        row("final accuracy", *(f"{curve.accuracy[-1]:.1%}" for curve in curves))
        times = [curve.until(bar) for curve in curves]
        row(f"time to {bar:.1%}", *("never" if time is None else format_seconds(time) for time in times))
    Console(highlight=False).print(table)
