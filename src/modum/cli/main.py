"""The command `modum`: each file of this folder is a subcommand, with its own `app`.

`modum --help` imports all of them, so they import heavy packages (NumPy, Numba, frameworks) inside their
functions.
"""

import importlib.metadata
import signal
import sys
from typing import Annotated

import typer

from modum.cli import caffe, data, doctor, join, plan, run, server, simulate, status, token
from modum.errors import ModumError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (server, run, join, status, plan, simulate, caffe, data, doctor, token):
    app.add_typer(command.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"modum {importlib.metadata.version('modum')}")
        raise typer.Exit


@app.callback()
def modum(
    context: typer.Context,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Train one model with many workers through a soft memory box.

    The box is pooled memory that all workers read, write and add into, without waiting for the slowest.

    On one machine, **modum run -n 4 train.py** starts a memory server and four workers. On several
    machines, start **modum server** where there is memory to spare, and give the workers those servers' addresses.
    **modum status** shows what a box holds; **modum doctor** shows what this machine can do.
    """
    # `run` has a handler of its own once there is something to stop; see modum.__main__
    if context.invoked_subcommand not in ("run", "join") and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """Run the command line; a `ModumError` ends as one line and exit status 1."""
    try:
        app()
    except ModumError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
