"""The table, for people and for machines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.row import Effort, Row

NOTES = {
    "exchange": "A plain pass reads and writes every number of two private arrays once, without locks or arithmetic.",
    "mpi": "Under an exclusive lock of the window: get g, d = a (x - g) and x -= d in one pass, accumulate d.",
    "memory": "A server: its own pages and its programs', without those of the pool. A worker: the most that it held "
    "from the making of the averager to its end, over what it held after ordinary steps.",
    "overlap": "From the medians of steps (up to optimizer.step()) with and without an exchange under them. Time for "
    "which the worker was ready to run but other threads had the cores is left out: it is the processor time that the "
    "exchange takes, here and in the server. Snapshot and subtraction come on top, between the steps.",
}


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the figures were taken under; `others` is the part of all cores' time that other processes took."""

    machine: dict[str, str]
    effort: Effort
    others: float


def show(console: Console, conditions: Conditions, rows: Mapping[str, Sequence[Row]]) -> None:
    """Draw the table, with the machine above it and what the rows mean below."""
    for name, value in conditions.machine.items():
        console.print(f"{name}: {value}", highlight=False)
    effort = conditions.effort
    console.print(
        f"transfers of {effort.nbytes / 1e6:g} MB float32, medians of {effort.rounds} rounds; "
        f"other processes took {conditions.others:.0%} of all cores meanwhile",
        highlight=False,
    )
    table = Table(show_lines=True)
    table.add_column("what")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("bar", justify="right", no_wrap=True)
    table.add_column("ok", no_wrap=True)
    for row in (row for group in rows.values() for row in group):
        verdict = ("[green]yes[/]" if row.ok else "[red]no[/]") + ("" if row.quiet else "\n[yellow]busy[/]")
        table.add_row(f"{escape(row.what)}\n[dim]{escape(row.detail)}[/]", row.figure, row.bar, verdict)
    console.print(table)
    if not all(row.quiet for group in rows.values() for row in group):
        console.print("busy: other processes took part in what was timed; run it again when they are idle.")
    for name, note in NOTES.items():
        if name in rows:
            console.print(f"{name}: {note}", highlight=False)


def as_json(conditions: Conditions, rows: Mapping[str, Sequence[Row]]) -> str:
    """Everything, the single samples in seconds included."""
    flat = [{"benchmark": name, **asdict(row), "ok": row.ok} for name, group in rows.items() for row in group]
    return json.dumps({**asdict(conditions), "rows": flat}, indent=2)
