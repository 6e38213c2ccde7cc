"""`modum doctor`: what this machine can do."""

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer()


@app.command()
def doctor(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that a memory server would use.")] = 7500,
    as_json: Annotated[bool, typer.Option("--json", help="Print every value, for programs.")] = False,
) -> None:
    """Show what this machine can do: cores, memory and its speed, transports, ports.

    Tries things out for a few seconds and changes nothing. Lines that start with "!" say what is wrong, and
    what to do about it. Paste the output into bug reports; it has this machine's addresses, but no token.
    """
    import msgspec
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from modum.observe.doctor import examine

    report = examine(port)
    console = Console()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    elif console.is_terminal:
        table = Table.grid("", "", "", padding=(0, 2))
        for row in report.rows():
            mark, trouble = ("[red]![/]", f"[red]{escape(row.trouble)}[/]") if row.trouble else ("[green]✓[/]", "")
            table.add_row(mark, f"[bold]{row.topic}[/]", "\n".join(filter(None, (escape(row.finding), trouble))))
        console.print(table)
    else:
        for row in report.rows():
            trouble = f": {row.trouble}" if row.trouble else ""
            print(f"{'!' if row.trouble else ' '} {row.topic:<20} {row.finding}{trouble}")
