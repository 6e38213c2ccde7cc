"""`modum plan`: calculate what to expect of a job."""

import os
import sys
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
from modum.errors import ModumError

if TYPE_CHECKING:
    from modum.plan import Cluster, Estimate

__all__ = ["app"]

app = typer.Typer()


@app.command()
def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="A model (.prototxt, .caffemodel, .keras, .h5, .safetensors, .pt) or the size of its weights: 100MB."
        ),
    ],
    step: Step = "200ms",
    workers: Workers = 8,
    group_size: GroupSize = 1,
    servers: Servers = 1,
    colocated: Colocated = False,
    rule: Annotated[
        str | None,
        typer.Option(
            help="elastic (hybrid with groups), downpour, or allreduce, with settings if need be: "
            "downpour:staleness=divide.",
            show_default="elastic",
        ),
    ] = None,
    interval: Interval = "auto",
    overlap: Overlap = True,
    link: Link = None,
    server_link: ServerLink = None,
    server_memory: ServerMemory = "10GB/s",
    bus: Bus = "10GB/s",
    copy: Copy = None,
    latency: Latency = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure the copy here; and, with a box in MODUM_BOX, link and latency to it."),
    ] = False,
    command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="With --measure: a command that trains with one worker (python train.py); gives the step time.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every value, for programs.")] = False,
) -> None:
    """Calculate what a job needs of a cluster, what saturates first, and how efficient it will be.

        modum plan 100MB --step 200ms -n 16 --link 7GB/s

    says that all workers together move 3.2 GB per step, 16 GB/s, and how often they may exchange. It calculates
    a steady state; **modum simulate** adds stragglers, failures and random step times.
    """
    from modum.plan import estimate, model_bytes
    from modum.rules import Elastic
    from modum.units import parse_seconds

    try:
        nbytes = model_bytes(model)
        seconds = parse_seconds(step)
        found: dict[str, str | float | None] = {"link": link, "copy": copy, "latency": latency}
        notes: list[str] = []
        if measure:
            seconds = _measure(found, notes, seconds, command)
        elif command is not None:
            raise ValueError("--command is what --measure runs\nHINT: add --measure")
        cluster = cluster_of(
            workers=workers,
            group_size=group_size,
            servers=servers,
            colocated=colocated,
            server_memory=server_memory,
            bus=bus,
            server_link=server_link,
            link=found["link"],
            copy=found["copy"],
            latency=found["latency"],
        )
        steps = "auto" if interval == "auto" else int(interval)
        result = estimate(cluster, nbytes, seconds, rule=rule or Elastic.name, interval=steps, overlap=overlap)  # type: ignore[arg-type]
    except ModumError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        import msgspec

        values = {**msgspec.to_builtins(result), "bottleneck": msgspec.to_builtins(result.bottleneck)}
        print(msgspec.json.format(msgspec.json.encode(values)).decode())
    else:
        _show(result, cluster, notes)


def _measure(found: dict[str, str | float | None], notes: list[str], seconds: float, command: str | None) -> float:
    """Measure what was not given, and return the step time."""
    from modum.box import Box
    from modum.cluster import credentials
    from modum.observe.bandwidth import measure_bandwidth
    from modum.plan import measure_copy, measure_step
    from modum.units import format_seconds, format_speed

    if found["copy"] is None:
        found["copy"] = speed = measure_copy()
        notes.append(f"measured here: copies {format_speed(speed)}")
    if servers := os.environ.get("MODUM_BOX"):
        with Box.connect(servers, token=credentials.token(), transport="tcp") as box:
            bandwidth = measure_bandwidth(box)
        speed, trip = bandwidth.exchange_bytes_per_second, bandwidth.small_exchange_seconds
        notes.append(f"measured to {servers}: exchanges {format_speed(speed)}, a small one {format_seconds(trip)}")
        found["link"] = found["link"] or speed
        found["latency"] = found["latency"] or trip / 2
    else:
        notes.append("MODUM_BOX names no box: link and latency were not measured")
    if command is not None:
        seconds = measure_step(command.split(), os.environ)
        notes.append(f"measured: a step of {command} takes {format_seconds(seconds)}")
    return seconds


def _show(result: "Estimate", cluster: "Cluster", notes: list[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from modum.plan import ALL_REDUCE
    from modum.units import format_amount, format_bytes, format_seconds, format_speed

    console = Console(highlight=False)
    for note in notes:
        console.print(note)
    rows = [
        ("weights", format_amount(result.nbytes)),
        ("all workers, each step", f"{format_amount(result.step_bytes)} in and out"),
        ("at interval 1", format_speed(result.traffic)),
    ]
    if result.rule == ALL_REDUCE:
        rows.append(("ring all-reduce", format_seconds(result.exchange_seconds)))
    else:
        rows += [
            ("an exchange hides under", _steps(result.hiding_interval)),
            ("planned interval", _steps(result.interval)),
            ("an exchange takes", format_seconds(result.exchange_seconds)),
            ("memory of the fullest server", format_bytes(result.server_memory)),
        ]
    rows += [
        ("more memory of each worker", format_bytes(result.worker_memory)),
        ("efficiency", f"{result.efficiency:.1%} of {cluster.workers} workers that never wait"),
    ]
    summary = Table.grid(padding=(0, 2))
    for name, value in rows:
        summary.add_row(name, f"[bold]{value}[/]")
    console.print(summary)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("place", "asked for", "has", "load"):
        table.add_column(heading, justify="left" if heading == "place" else "right", no_wrap=True)
    for place in result.places:
        load = f"{place.load:.0%}"
        table.add_row(
            place.name,
            format_speed(place.demand),
            format_speed(place.capacity),
            f"[red]{load}[/]" if place.load > 1 else load,
        )
    console.print(table)
    console.print(f"{result.bottleneck.name} saturates first", style="bold")


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
