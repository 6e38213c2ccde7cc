"""`modum server`: run a memory server in the foreground."""

import errno
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modum.cli.snapshot_options import Every, Folder, Kept, Restore, snapshot_settings
from modum.waiting import Deadline

if TYPE_CHECKING:
    from modum.box import Server

app = typer.Typer()

_GOODBYE_SECONDS = 5.0
_LOOK_SECONDS = 0.02
_HINTS = {
    errno.EADDRINUSE: "\nHINT: --port 0 takes a free port; `ss -ltnp sport = :{port}` says who listens on this one",
    errno.EADDRNOTAVAIL: "\nHINT: --host takes an address of this machine; `ip address` lists them",
    errno.EACCES: "\nHINT: ports below 1024 are for root: choose another with --port",
}


@app.command()
def server(
    host: Annotated[str, typer.Option(help="Address to listen on. Anything but loopback needs a token.")] = "127.0.0.1",
    interface: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="Listen on this network interface, such as eth0: instead of --host.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7500,
    memory: Annotated[
        str,
        typer.Option(help="Most memory that buffers may take, such as 512MiB or 8GiB; it is used as they are written."),
    ] = "8GiB",
    token_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File of mode 0600 with the job's token, or of `modum token`; else MODUM_TOKEN counts.",
        ),
    ] = None,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt", help="Take only encrypted connections over TCP; clients write encrypt:// before the address."
        ),
    ] = False,
    unencrypted_rdma: Annotated[
        bool,
        typer.Option("--unencrypted-rdma", help="With --encrypt: offer RDMA all the same, which is not encrypted."),
    ] = False,
    snapshot_dir: Folder = None,
    snapshot_every: Every = None,
    snapshots_kept: Kept = None,
    snapshot_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default="HOST-PORT", help="This server's folder in DIR, of both options."),
    ] = None,
    restore: Restore = None,
    stop_with_stdin: Annotated[
        bool, typer.Option("--stop-with-stdin", help="Stop when standard input ends, not by SIGTERM: for launchers.")
    ] = False,
) -> None:
    """Offer this machine's memory to a job.

    Prints its address when it is ready, and serves until Ctrl-C. Several servers make one box: give all their
    addresses, always in the same order, to `modum run --box` or to `Box.connect`.

    On several machines, with the same token for all:

        export MODUM_TOKEN=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')

        modum server --host 10.0.0.5 --memory 64GiB

    With **--encrypt** nobody on the way can read or change anything, and the address begins with encrypt://. RDMA is
    not offered then.

    With **--snapshot-dir** what it holds can be had back after its end: see docs/how-to/stop-and-go-on.md.
    """
    import psutil

    from modum.box import Server
    from modum.box.server.process import ready_line
    from modum.box.tokens import is_token_list
    from modum.cluster import credentials
    from modum.cluster.interfaces import chosen_interface
    from modum.units import format_bytes, parse_bytes

    try:
        if interface is not None:
            host = chosen_interface(interface).address
        limit = parse_bytes(memory)
        several = token_file is not None and is_token_list(token_file)
        name = snapshot_name or f"{host}-{port}"
        memory_server = Server(
            host,
            port,
            memory=limit,
            token=None if several else credentials.token(token_file),
            tokens=token_file if several else None,
            encrypt=encrypt,
            unencrypted_rdma=unencrypted_rdma,
            snapshots=snapshot_settings(snapshot_dir / name if snapshot_dir else None, snapshot_every, snapshots_kept),
            restore=restore / name if restore else None,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "").format(port=port)
        print(f"error: cannot listen on {host}:{port}: {error.strerror}{hint}", file=sys.stderr)
        raise typer.Exit(1) from None
    available = psutil.virtual_memory().available
    if limit > available:
        print(
            f"warning: --memory {format_bytes(limit)} is more than the {format_bytes(available)} available here",
            file=sys.stderr,
        )
    # every connection takes a descriptor, and another for every buffer that it uses
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    if stop_with_stdin:
        # Slurm and systemd send it to every process: the workers that leave need this one to the end of their grace
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=_obey_input, args=(memory_server, stopped), daemon=True).start()
    with memory_server:
        if memory_server.restored:
            print(memory_server.restored, file=sys.stderr)
        print(ready_line(memory_server.address), flush=True)
        stopped.wait()


def _obey_input(memory_server: "Server", stopped: threading.Event) -> None:
    """Stop when standard input ends; a line of input means to stop once the clients have left."""
    source = sys.stdin.fileno()
    if os.read(source, 4096):
        deadline = Deadline(_GOODBYE_SECONDS)
        while memory_server.statistics().clients and not deadline.passed:
            if select.select([source], [], [], _LOOK_SECONDS)[0] and not os.read(source, 4096):
                break
    stopped.set()
