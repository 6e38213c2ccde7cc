"""`modum doctor`: show what this machine can do, and how fast a box is from here."""

import signal
from types import FrameType
from typing import Annotated, NoReturn

import typer

__all__ = ["app"]

app = typer.Typer()


@app.command()
def doctor(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that a memory server would use.")] = 7500,
    box: Annotated[
        str | None, typer.Option(help="Servers of a box, host:port,host:port: measure every way to each of them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every value, for programs.")] = False,
) -> None:
    """Show what this machine can do: cores, memory and its speed, transports, ports, RDMA devices.

    Runs tests for a few seconds and changes nothing. Lines that start with "!" say what is wrong, and
    what to do about it. Paste the output into bug reports; it contains this machine's addresses, but no token.

    modum doctor --box 10.0.0.5:7500 also measures bandwidth and latency of every transport to every server of that box,
    using MODUM_TOKEN if it needs one, and leaves nothing there, also where it is interrupted.
    """
    import msgspec
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from modum.cluster import credentials
    from modum.observe.doctor import rows
    from modum.observe.machine import examine
    from modum.observe.paths import measure_paths

    signal.signal(signal.SIGTERM, _end)
    report = examine(port)
    servers = [address for address in (box or "").split(",") if address.strip()]
    try:
        paths = measure_paths(servers, token=credentials.token())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--box") from None
    lines = [*rows(report), *(path.row() for path in paths)]
    console = Console()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(report), "paths": paths})).decode())
    elif console.is_terminal:
        table = Table.grid("", "", "", padding=(0, 2))
        for row in lines:
            mark, trouble = ("[red]![/]", f"[red]{escape(row.trouble)}[/]") if row.trouble else ("[green]✓[/]", "")
            table.add_row(mark, f"[bold]{row.topic}[/]", "\n".join(filter(None, (escape(row.finding), trouble))))
        console.print(table)
    else:
        for row in lines:
            trouble = f": {row.trouble}" if row.trouble else ""
            print(f"{'!' if row.trouble else ' '} {row.topic:<20} {row.finding}{trouble}")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave as after Ctrl-C, so that nothing stays in the box."""
    raise SystemExit(128 + number)
