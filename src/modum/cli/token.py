"""`modum token`: make, list and revoke the tokens of a box's jobs."""

import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
token_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke tokens, each for one job.")
app.add_typer(token_app, name="token")

File = Annotated[
    Path, typer.Option("--file", help="The tokens: what `modum server --token-file` takes, on every server's machine.")
]
_FILE = Path("tokens.json")


@token_app.command()
def make(
    job: Annotated[
        str, typer.Argument(help="The job that it is for: its names begin with JOB/. Without: for the whole box.")
    ] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="For looking alone, such as modum status.")] = False,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="After this time it ends, such as 12h.", show_default="never")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Most memory that the job may take on each server.", show_default="all there is"),
    ] = None,
    file: File = _FILE,
) -> None:
    """Make a token, add it to the file, and print it.

    export MODUM_TOKEN=$(modum token make vision --memory 4GiB --expires 12h)
    """
    from modum.box.auth import new_token
    from modum.box.tokens import Token, read_tokens, write_tokens
    from modum.cluster.environment import check_job
    from modum.units import parse_bytes, parse_seconds

    try:
        check_job(job)
        if memory is not None:
            parse_bytes(memory)
            if not job:
                raise ValueError("--memory limits a job\nHINT: modum token make JOB --memory 4GiB")
        end = 0.0 if expires is None else time.time() + parse_seconds(expires)
        tokens = read_tokens(file) if file.exists() else []
        new = Token(new_token(), job, read_only, end, memory or "")
        write_tokens(file, [*tokens, new])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print(new.token)


@token_app.command("list")
def show(file: File = _FILE) -> None:
    """Show the tokens in the file, without what makes them secret."""
    from rich.console import Console
    from rich.table import Table

    from modum.box.tokens import read_tokens

    table = Table("token", "job", "rights", "memory", "state", box=None, pad_edge=False)
    try:
        tokens = read_tokens(file)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    for each in tokens:
        ends = time.strftime("until %Y-%m-%d %H:%M UTC", time.gmtime(each.expires)) if each.expires else "good"
        state = "revoked" if each.revoked else "expired" if each.why_void(time.time()) else ends
        rights = "read-only" if each.read_only else "all"
        table.add_row(each.id, each.job or "(the whole box)", rights, each.memory, state)
    Console().print(table)


@token_app.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="TOKEN|JOB", help="As `modum token list` shows it; or all of a job.")],
    file: File = _FILE,
) -> None:
    """Revoke tokens: servers that have the file end their connections within a second."""
    import msgspec

    from modum.box.tokens import read_tokens, write_tokens

    try:
        tokens = read_tokens(file)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    meant = [each for each in tokens if which and which in (each.id, each.job)]
    if not meant:
        raise typer.BadParameter(f"no token or job {which!r} is in {file}\nHINT: modum token list")
    write_tokens(file, [msgspec.structs.replace(each, revoked=each.revoked or each in meant) for each in tokens])
    print(f"revoked: {', '.join(each.id for each in meant)}")
