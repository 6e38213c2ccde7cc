"""Options of the commands that start memory servers, for the snapshots of these."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from modum.box import SnapshotSettings

__all__ = ["Every", "Folder", "Kept", "Restore", "Resume", "resume_settings", "snapshot_settings"]

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
Resume: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        file_okay=False,
        show_default=False,
        help="Go on from the last good checkpoint in DIR, of servers and workers, if any; write new ones there.",
    ),
]


def resume_settings(
    resume: Path | None, folder: Path | None, restore: Path | None, every: str | None, kept: int | None
) -> "SnapshotSettings | None":
    """Return where and when to take checkpoints of the whole job, of what was given on the command line.

    Args:
        resume: where; None takes none.
        folder: what was given to `--snapshot-dir`.
        restore: what was given to `--restore`.
        every: a time, in words.
        kept: how many stay.

    Returns:
        The settings; None where there is no folder.

    Raises:
        ValueError: a number is out of its range, or the options contradict each other.
    """
    if resume is None:
        return None
    if folder is not None or restore is not None:
        raise ValueError(
            "--resume DIR restores the memory servers from DIR and writes there, so --snapshot-dir and --restore mean"
            " nothing with it\nHINT: leave them out"
        )
    settings = snapshot_settings(resume, every, kept)
    if settings is not None and settings.every is None:
        raise ValueError("--snapshot-every never would take no checkpoint\nHINT: --resume needs a time, such as 60s")
    return settings


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
                "--snapshot-every and --snapshots-kept mean nothing without --snapshot-dir, or --resume of modum run\n"
                "HINT: add --snapshot-dir DIR, or leave them out"
            )
        return None
    settings = SnapshotSettings(folder=folder)
    return SnapshotSettings(
        folder=folder,
        every=settings.every if every is None else None if every == NEVER else parse_seconds(every),
        kept=settings.kept if kept is None else kept,
    )
