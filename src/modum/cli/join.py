"""`modum join`: come to a job that runs already."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from modum.cli.run import OnFailure, launch_and_exit
from modum.cli.worker_options import Arguments, Grace, Module, Threads, Timeout, without_separator

__all__ = ["app"]

app = typer.Typer()


class _BoxFirst(TyperCommand):
    """Takes the first argument for --box: the options that follow it would else belong to the script."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[:1]
        return super().parse_args(ctx, ["--box", *args] if first and not first[0].startswith("-") else args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["HOST:PORT,...", *super().collect_usage_pieces(ctx)]


# All that follows the script belongs to the script.
@app.command(cls=_BoxFirst, context_settings={"allow_interspersed_args": False})
def join(
    context: typer.Context,
    box: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT,...",
            show_default=False,
            help="The job's memory servers, in their order: the first argument. Their token is taken from MODUM_TOKEN.",
        ),
    ],
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", show_default=False, help="What the job runs, with the same settings.")
    ],
    arguments: Arguments = None,
    workers: Annotated[int, typer.Option("-n", "--workers", help="Number of workers that come.")] = 1,
    threads: Threads = None,
    on_failure: Annotated[
        OnFailure, typer.Option(help="When a worker that came fails, stop the others that came, or let them go on.")
    ] = OnFailure.STOP,
    timeout: Timeout = None,
    grace: Grace = "30s",
    name: Annotated[
        str, typer.Option(metavar="NAME", show_default=False, help="The job's name, if it was given one.")
    ] = "",
    module: Module = False,
) -> None:
    """Join a job that runs already, with workers on this machine.

    **modum join 10.0.0.5:7500 -n 4 train.py --epochs 3**

    They take the next ranks of the job, its group size and its weights from the box, and train their share of the
    samples until all are done. SIGTERM, or a failure, has them leave; the job goes on without them.

    Run the job's own script, with the same settings: a model or a rule that differs is refused.
    """
    from modum.observe.console import RunConsole
    from modum.units import parse_seconds

    try:
        if not module and not Path(script).exists():
            raise ValueError(
                f"there is no {script} in {Path.cwd()}\n"
                "HINT: as in `modum join HOST:PORT -n 4 train.py --epochs 3`; a module needs -m"
            )
        seconds = parse_seconds(grace)
        waits = None if timeout is None else parse_seconds(timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    launch_and_exit(
        context,
        RunConsole,
        command=(*(["-m"] if module else []), script, *without_separator(arguments or [])),
        workers=workers,
        threads=threads,
        on_failure=on_failure.value,
        timeout=waits,
        grace=seconds,
        box=tuple(server.strip() for server in box.split(",")),
        name=name,
        joins=True,
    )
