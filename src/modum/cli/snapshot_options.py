"""Options of the commands that start memory servers, for the snapshots of these."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from modum.box import SnapshotSettings

__all__ = ["Every", "Folder", "Kept", "Restore", "snapshot_settings"]

Folder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Write snapshots of the memory into DIR: each server into a folder of its own there.",
    ),
]
Every: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        show_default="60s",
        help="How often to write a snapshot: 30s, 5min; never: only when it is asked to (job.snapshot()).",
    ),
]
Kept: TypeAlias = Annotated[
    int | None, typer.Option(show_default="3", help="Snapshots that stay; DIR needs room for one more.")
]
Restore: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        exists=True,
        file_okay=False,
        show_default=False,
        help="Begin with the last good snapshot in DIR, which --snapshot-dir has filled.",
    ),
]


def snapshot_settings(folder: Path | None, every: str | None, kept: int | None) -> "SnapshotSettings | None":
    """Return where and when to write snapshots, of what was given on the command line.

    Args:
        folder: where; None writes none.
        every: a time, in words, or "never".
        kept: how many stay.

    Returns:
        The settings; None where there is no folder.

    Raises:
        ValueError: a number is out of its range or cannot be read, or means nothing without a folder.
    """
    from modum.box import SnapshotSettings
    from modum.box.server.process import NEVER
    from modum.units import parse_seconds

    if folder is None:
        if every is not None or kept is not None:
            raise ValueError(
                "--snapshot-every and --snapshots-kept mean nothing without --snapshot-dir\n"
                "HINT: add --snapshot-dir DIR, or leave them out"
            )
        return None
    settings = SnapshotSettings(folder=folder)
    return SnapshotSettings(
        folder=folder,
        every=settings.every if every is None else None if every == NEVER else parse_seconds(every),
        kept=settings.kept if kept is None else kept,
    )
