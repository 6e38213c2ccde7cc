"""Options of the commands that start workers: `modum run` and `modum join`."""

from typing import Annotated, TypeAlias

import typer

__all__ = ["Arguments", "Grace", "Module", "Threads", "Timeout", "without_separator"]

Arguments: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ARGS]...", show_default=False, help="Passed to the script as they are; a first -- is left out."
    ),
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(show_default="OMP_NUM_THREADS, or 1", help="Compute threads of each worker."),
]
Timeout: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        show_default="MODUM_TIMEOUT, or 30s",
        help="How long workers wait for the memory servers; their other waits are multiples of it.",
    ),
]
Grace: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="TIME", help="After SIGTERM, workers have this long to leave in order, before they are killed."
    ),
]
Module: TypeAlias = Annotated[
    bool, typer.Option("-m", "--module", help="SCRIPT is the name of a module, as in `python -m`.")
]


def without_separator(arguments: list[str]) -> list[str]:
    """Return a script's arguments without the `--` that people put before them out of habit."""
    return arguments[1:] if arguments[:1] == ["--"] else arguments
