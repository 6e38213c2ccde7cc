"""`modum status`: show what a box holds and how busy it is."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from modum.box import Box, BoxStatistics, BufferInfo

app = typer.Typer()


@app.command()
def status(
    box: Annotated[
        str, typer.Argument(envvar="MODUM_BOX", help="Servers of the box, in order: host:port,host:port")
    ] = "127.0.0.1:7500",
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="How long to measure the GB/s.")] = 1.0,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Show the servers of a box, how busy they are, their snapshots, and the box's buffers.

    modum status 10.0.0.5:7500,10.0.0.6:7500
    """
    from rich.console import Console
    from rich.live import Live

    from modum.box import Box
    from modum.cluster import credentials

    console = Console()
    try:
        # over TCP: looking at a box should not load compilers or map memory
        with Box.connect(box, token=credentials.token(), transport="tcp", timeout=5.0) as client:
            before = client.statistics()
            time.sleep(seconds)
            now = client.statistics()
            picture = _picture(before, now, client)
            if not watch:
                console.print(picture)
                return
            with Live(picture, console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(seconds)
                    before, now = now, client.statistics()
                    picture = _picture(before, now, client)
                    live.update(picture, refresh=True)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _picture(before: "BoxStatistics", now: "BoxStatistics", client: "Box") -> "Group":
    from rich.console import Group

    return Group(_servers(before, now), *_stands(now), *_owners(now), *_snapshots(now), _buffers(client.list()))


def _servers(before: "BoxStatistics", now: "BoxStatistics") -> "Table":
    from modum.units import format_bytes

    table = _table("server", "up", "used", "of", "buffers", "clients", "ops/s", "GB/s", words=("server",))
    for old, new in zip(before.servers, now.servers, strict=True):
        seconds = new.seconds - old.seconds
        # this command is itself a client
        table.add_row(
            new.address,
            f"{new.seconds:.0f} s",
            format_bytes(new.used),
            format_bytes(new.memory),
            str(new.buffers),
            str(new.clients - 1),
            f"{(sum(new.operations.values()) - sum(old.operations.values())) / seconds:.0f}",
            f"{(sum(new.nbytes.values()) - sum(old.nbytes.values())) / seconds / 1e9:.2f}",
        )
    return table


def _owners(now: "BoxStatistics") -> "Iterator[Table]":
    """Yield a table of what the jobs with tokens of their own take, if there are any."""
    from modum.units import format_bytes

    table = _table("job", "server", "used", "of", words=("job", "server"))
    for server in now.servers:
        for owner in server.owners:
            limit = format_bytes(owner.limit) if owner.limit else ""
            table.add_row(owner.job, server.address, format_bytes(owner.used), limit)
    if table.row_count:
        yield table


def _stands(now: "BoxStatistics") -> "Iterator[Table]":
    """Yield a table of who serves the places of the box, if servers stand in for each other."""
    table = _table("place", "primary", "backup", "view", words=("place", "primary", "backup"))
    for address, server in zip(now.addresses, now.servers, strict=True):
        if (stand := server.stand) is not None:
            backup = now.addresses[stand.backup] if stand.backup >= 0 else "none: nothing may be lost now"
            table.add_row(address, server.address, backup, str(stand.view))
    if table.row_count:
        yield table


def _snapshots(now: "BoxStatistics") -> "Iterator[Table | Text]":
    """Yield a table of the servers' snapshots, if they write any, and a line for each that failed the last time."""
    from rich.text import Text

    from modum.units import format_bytes, format_seconds

    table = _table("server", "snapshot", "age", "size", "took", words=("server", "snapshot"))
    failures = []
    for server in now.servers:
        if (last := server.snapshots) is None:
            continue
        if last.path:
            took = format_seconds(last.seconds)
            table.add_row(server.address, last.path, format_seconds(last.age), format_bytes(last.nbytes), took)
        else:
            table.add_row(server.address, f"none yet in {last.folder}", "", "", "")
        if last.failure:
            ago = format_seconds(last.failure_age)
            failures.append(
                Text(f"{server.address}: the last snapshot failed {ago} ago: {last.failure}\n", style="red")
            )
    if table.row_count:
        yield table
    yield from failures


def _buffers(buffers: "list[BufferInfo]") -> "Table":
    from modum.units import format_bytes

    table = _table("buffer", "shape", "dtype", "size", "version", words=("buffer", "shape", "dtype"))
    for buffer in buffers:
        shape = " x ".join(map(str, buffer.shape))
        table.add_row(buffer.name, shape, buffer.dtype, format_bytes(buffer.nbytes), str(buffer.version))
    return table


def _table(*headings: str, words: tuple[str, ...]) -> "Table":
    """Return an empty table with the columns of `words` aligned left, and those of numbers right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=True)
    return table
