"""Exchanges per second over slow links, compressed and not: `python -m bench.compression`.

On the emulated cluster (`bench.cluster`): needs Linux and root.
"""

import sys
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from bench.cluster.case import Case
from bench.cluster.run import run, unavailable
from bench.machine import describe
from modum.box.compression import COMPRESSIONS
from modum.units import parse_bytes

LINKS: Final = (100, 1000)
"""Mbit/s, each way."""
BAR: Final = ("int8", 100, 2.5)
"""With this compression over this link, so many times as many exchanges as without."""

WIDTH: Final = 100
"""Columns of the table, also in a file."""

app = typer.Typer(add_completion=False)


@app.command()
def compression(
    clients: Annotated[int, typer.Option(min=1, help="Clients, each on a host of its own.")] = 1,
    size: Annotated[str, typer.Option(help="Bytes of the buffer, such as 32MiB.")] = "32MiB",
    seconds: Annotated[float, typer.Option(help="How long each case is measured.")] = 20.0,
) -> None:
    """Count the exchanges of a float32 buffer with one memory server behind a shaped link, for every compression."""
    if reason := unavailable():
        print(f"error: no cluster can be made here: {reason}", file=sys.stderr)
        raise typer.Exit(1)
    nbytes = parse_bytes(size) // 4 * 4
    console = Console(width=WIDTH)
    console.print("; ".join(value for name, value in describe().items() if name != "date"), highlight=False)
    table = Table("link", "compression", "exchanges a second", "times as many", "sent, MB each", "cores busy")
    met = True
    with Console(stderr=True).status("") as status:
        for link in LINKS:
            plain = 0.0
            for name in ("none", *COMPRESSIONS):
                status.update(f"{link} Mbit/s, {name}")
                case = Case(
                    system="pool",
                    workers=clients,
                    nbytes=nbytes,
                    rate=link * 1e6 / 8,
                    step_seconds=0.0,
                    seconds=seconds,
                    warm_up=2,
                    compression=name,  # type: ignore[arg-type]
                )
                found = run(case)
                each = found.steps / found.seconds
                plain = plain or each
                times = each / plain
                sent = sum(found.sent[:clients]) / found.steps / 1e6, found.sent[-1] / found.steps / 1e6
                row = f"{each:.2f}", f"{times:.2f}", f"{sent[0]:.1f} up, {sent[1]:.1f} down", f"{found.busy:.0%}"
                table.add_row(f"{link} Mbit/s", name, *row)
                met = met and ((name, link) != BAR[:2] or times >= BAR[2])
    console.print(table)
    console.print(f"bar: {BAR[0]} over {BAR[1]} Mbit/s at least {BAR[2]} times as many: {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    app(prog_name="python -m bench.compression")
