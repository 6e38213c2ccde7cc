"""`modum run`: start a job on this machine."""

import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from modum.cli.snapshot_options import Every, Folder, Kept, Restore, Resume, resume_settings, snapshot_settings
from modum.cli.worker_options import Arguments, Grace, Module, Threads, Timeout, without_separator

if TYPE_CHECKING:
    from modum.observe.console import RunConsole

__all__ = ["OnFailure", "app", "launch_and_exit"]

app = typer.Typer()

_OF_SERVERS: Final = ("servers", "memory", "encrypt")
_OPTIONS: Final = {
    "MODUM_BOX": "box",
    "MODUM_GROUP_SIZE": "group-size",
    "MODUM_SERVERS": "servers",
    "MODUM_MEMORY": "memory",
    "MODUM_ENCRYPT": "encrypt",
}
"""Variables that count under other launchers, and the options that do so here."""


class OnFailure(StrEnum):
    """What happens to the job when a worker fails."""

    STOP = "stop"
    CONTINUE = "continue"


# All that follows the script belongs to the script.
@app.command(context_settings={"allow_interspersed_args": False})
def run(
    context: typer.Context,
    script: Annotated[str, typer.Argument(metavar="SCRIPT", show_default=False, help="What to run: train.py.")],
    arguments: Arguments = None,
    workers: Annotated[int, typer.Option("-n", "--workers", help="Number of workers.")] = 1,
    group_size: Annotated[
        int, typer.Option(help="Workers in a group: synchronous inside, asynchronous between groups.")
    ] = 1,
    servers: Annotated[int | None, typer.Option(show_default="1", help="Number of memory servers to start.")] = None,
    memory: Annotated[
        str | None, typer.Option(show_default="8GiB", help="The most that each of these servers may hold.")
    ] = None,
    encrypt: Annotated[
        bool,
        typer.Option("--encrypt", help="Encrypt what goes over TCP; with --box, write encrypt:// before addresses."),
    ] = False,
    replicas: Annotated[
        int,
        typer.Option(
            min=1, max=2, help="2: any one of at least three memory servers may be lost, and the job goes on."
        ),
    ] = 1,
    threads: Threads = None,
    on_failure: Annotated[
        OnFailure, typer.Option(help="When a worker fails, stop the others or let the other groups go on.")
    ] = OnFailure.STOP,
    timeout: Timeout = None,
    grace: Grace = "30s",
    box: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT,...",
            show_default=False,
            help="Use these memory servers and start none; their token is taken from MODUM_TOKEN.",
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(metavar="NAME", show_default=False, help="With --box: tells this job from others in that box."),
    ] = "",
    hosts: Annotated[
        int,
        typer.Option(help="With --box: this many machines each run this command; their workers make one job."),
    ] = 1,
    snapshot_dir: Folder = None,
    snapshot_every: Every = None,
    snapshots_kept: Kept = None,
    restore: Restore = None,
    resume: Resume = None,
    module: Module = False,
) -> None:
    """Train with several workers on this machine, which share a memory box.

    **modum run -n 4 --group-size 2 train.py --epochs 3**

    starts one memory server, and four workers, `python train.py --epochs 3`, in two groups of two. In the script,
    `modum.connect()` joins the box and finds the worker's rank. Each line of output is prefixed with the worker's
    rank, and a status line shows samples, samples per second, loss, exchange time, and live workers.

    Options for **modum run** go before the script; all that follows belongs to the script.

    The exit status is 0 if all workers succeed (with --on-failure continue: all of at least one group), else
    the first failing worker's. Ctrl-C stops everything within a second,
    unless all workers handle SIGINT themselves: then it is passed on to them. The same holds for SIGHUP.
    SIGTERM has the workers leave in order within --grace, and the exit status is 143; another one ends them at once.

    With **--snapshot-dir DIR** the shared memory is written to files now and then, and **--restore DIR** begins with
    what is there. **--resume DIR** writes and restores the state of every worker as well, so that one command line
    starts a job and goes on with it: see docs/how-to/stop-and-go-on.md.

    On several machines, start a `modum server` that all reach, and on each of them **modum run --box HOST:PORT
    --hosts 2 train.py**; or start the same script with mpirun, torchrun or srun: see docs/how-to/launching.md.
    """
    from modum.observe.console import RunConsole
    from modum.units import parse_bytes, parse_seconds

    try:
        if box is not None and (servers is not None or memory is not None):
            raise ValueError(
                "--box uses memory servers that run already, so --servers and --memory mean nothing with it\n"
                "HINT: leave out --servers and --memory, or --box"
            )
        if box is not None and encrypt:
            raise ValueError(
                "--box uses memory servers that run already, so --encrypt means nothing with it\n"
                "HINT: start them with modum server --encrypt, and give --box the addresses that they print,"
                " such as encrypt://10.0.0.5:7500"
            )
        if box is not None and replicas > 1:
            raise ValueError(
                "--box uses memory servers that run already, so --replicas means nothing with it\n"
                "HINT: give it to `modum server`"
            )
        if box is not None and (snapshot_dir is not None or restore is not None or resume is not None):
            raise ValueError(
                "--box uses memory servers that run already, so --snapshot-dir, --restore and --resume mean nothing"
                " with it\nHINT: give the first two to `modum server`"
            )
        resumed = resume_settings(resume, snapshot_dir, restore, snapshot_every, snapshots_kept)
        snapshots = None if resumed else snapshot_settings(snapshot_dir, snapshot_every, snapshots_kept)
        if not module and not Path(script).exists():
            raise ValueError(
                f"there is no {script} in {Path.cwd()}\n"
                "HINT: options go before the script, as in `modum run -n 4 train.py --epochs 3`; a module needs -m"
            )
        limit = parse_bytes(memory or "8GiB")
        seconds = parse_seconds(grace)
        waits = None if timeout is None else parse_seconds(timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    launch_and_exit(
        context,
        RunConsole,
        command=(*(["-m"] if module else []), script, *without_separator(arguments or [])),
        workers=workers,
        group_size=group_size,
        servers=1 if servers is None else servers,
        memory=limit,
        encrypt=encrypt,
        replicas=replicas,
        threads=threads,
        on_failure=on_failure.value,
        timeout=waits,
        grace=seconds,
        box=tuple(server.strip() for server in box.split(",")) if box else (),
        hosts=hosts,
        name=name,
        snapshots=snapshots,
        restore=restore,
        resume=resumed,
    )


def launch_and_exit(context: typer.Context, console: "type[RunConsole]", *, name: str, **settings: Any) -> NoReturn:
    """Run a job with the token of this process's environment, and end with its exit status.

    Args:
        context: of the command, whose options count; a variable that has the place of one elsewhere is told.
        console: shows the job.
        name: the job's name; empty: as the environment says.
        **settings: settings of `RunConfig`.

    Raises:
        typer.BadParameter: the settings are not valid.
        typer.Exit: always, at the end.
    """
    from modum.run.signals import ending_at_once

    with ending_at_once(signal.SIGINT):
        from modum.cluster import credentials
        from modum.cluster.environment import JOB_VARIABLE
        from modum.run import RunConfig, launch

        try:
            config = RunConfig(token=credentials.token(), name=name or os.environ.get(JOB_VARIABLE, ""), **settings)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        for variable, option in _OPTIONS.items():
            value, source = os.environ.get(variable), context.get_parameter_source(option.replace("-", "_"))
            if value and source is not None and source.name == "DEFAULT" and not (config.box and option in _OF_SERVERS):
                print(
                    f"modum: {variable}={value} does not count here, only options do\n"
                    f"HINT: give --{option} {value}, or unset {variable}",
                    file=sys.stderr,
                )
        try:
            status = launch(config, console(config.workers))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        except KeyboardInterrupt:
            # The second Ctrl-C. Nothing runs any more, and flushing output that is not read would hang.
            os._exit(128 + signal.SIGINT)
    raise typer.Exit(status)
