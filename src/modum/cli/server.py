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
    from modum.box.server.replication.ring import Replication

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
    replicas: Annotated[
        int,
        typer.Option(
            min=1,
            max=2,
            help="2: what is acknowledged is at two of the servers of --box, which stand in for each other.",
        ),
    ] = 1,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT,...",
            show_default=False,
            help="With --replicas 2: all servers of the box in their order, this one among them.",
        ),
    ] = None,
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

    With **--replicas 2** any one of at least three servers may be lost, and nothing is: give each the same
    list of all in --box, and see docs/how-to/replicas.md.

    With **--snapshot-dir** what it holds can be had back after its end: see docs/how-to/stop-and-go-on.md.
    """
    import psutil

    from modum.box import Server
    from modum.box.server.process import ready_line
    from modum.box.sockets import format_address
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
            replication=_replication(replicas, box, format_address(host, port, encrypted=encrypt)),
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


def _replication(replicas: int, box: str | None, own: str) -> "Replication | None":
    """Return the servers that stand in for each other, as the command line says."""
    from modum.box.server.replication.ring import Replication
    from modum.box.sockets import format_address, is_encrypted, parse_address

    if replicas == 1:
        if box is not None:
            raise ValueError("--box means nothing without --replicas 2: this server needs to know no others")
        return None
    if box is None:
        raise ValueError(
            "--replicas 2 needs to know all servers of the box"
            "\nHINT: --box HOST:PORT,HOST:PORT,HOST:PORT, the same list for each of them"
        )
    servers = [
        format_address(*parse_address(each), encrypted=is_encrypted(each)) for each in box.split(",") if each.strip()
    ]
    if own not in servers:
        raise ValueError(
            f"this server listens on {own}, which is not in --box {','.join(servers)}"
            "\nHINT: --host, --port and --encrypt as they stand there: the other servers reach it by them"
        )
    return Replication(servers, servers.index(own))


def _obey_input(memory_server: "Server", stopped: threading.Event) -> None:
    """Stop when standard input ends; a line of input means to stop once the clients have left."""
    source = sys.stdin.fileno()
    if os.read(source, 4096):
        deadline = Deadline(_GOODBYE_SECONDS)
        while memory_server.clients and not deadline.passed:
            if select.select([source], [], [], _LOOK_SECONDS)[0] and not os.read(source, 4096):
                break
    stopped.set()
