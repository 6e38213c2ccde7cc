"""The options that describe a cluster, for the commands `plan` and `simulate`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modum.plan import Cluster

__all__ = [
    "Bus",
    "Colocated",
    "Copy",
    "GroupSize",
    "Interval",
    "Latency",
    "Link",
    "Overlap",
    "ServerLink",
    "ServerMemory",
    "Servers",
    "Step",
    "Workers",
    "cluster_of",
]

Step = Annotated[str, typer.Option(help="Mean time of a local step, such as 200ms.")]
Workers = Annotated[int, typer.Option("-n", "--workers", help="Number of workers; a simulation has at most 10,000.")]
GroupSize = Annotated[int, typer.Option(help="Workers in a group: synchronous inside.")]
Servers = Annotated[int, typer.Option(help="Memory servers.")]
Colocated = Annotated[
    bool, typer.Option("--colocated", help="The servers run on the workers' machines and share their links.")
]
Interval = Annotated[str, typer.Option(help='Steps between exchanges, or "auto".')]
Overlap = Annotated[bool, typer.Option(help="Exchange in the background.")]
Link = Annotated[str | None, typer.Option(help="Speed of a worker's link, one direction.", show_default="10Gbit/s")]
ServerLink = Annotated[str | None, typer.Option(help="Speed of a memory server's link.", show_default="as a worker's")]
ServerMemory = Annotated[
    str, typer.Option(help="Speed at which a server reads and writes its memory while it combines numbers.")
]
Bus = Annotated[str, typer.Option(help="Speed between the workers of a group.")]
Copy = Annotated[str | None, typer.Option(help="Speed at which a worker copies its weights.", show_default="25GB/s")]
Latency = Annotated[str | None, typer.Option(help="Of a message, one way.", show_default="50us")]


def cluster_of(
    *,
    workers: int,
    group_size: int,
    servers: int,
    colocated: bool,
    server_memory: str,
    bus: str,
    link: str | float | None,
    server_link: str | float | None,
    copy: str | float | None,
    latency: str | float | None,
) -> "Cluster":
    """Return the cluster that the options describe.

    Args:
        workers: as in `Cluster`, like the other arguments; speeds and times are text with a unit.
        group_size: workers in a group.
        servers: memory servers.
        colocated: whether they run on the workers' machines.
        server_memory: speed of their memory.
        bus: speed inside a group.
        link: speed of a worker's link; a number was measured, None means the default of `Cluster`.
        server_link: speed of a server's link, like `link`.
        copy: speed of copying weights, like `link`.
        latency: latency of a message, like `link`.

    Returns:
        The cluster.

    Raises:
        ValueError: a value cannot be read, or is out of its range.
    """
    from modum.plan import Cluster
    from modum.units import parse_seconds, parse_speed

    found: dict[str, float] = {}
    for name, given in {"link": link, "server_link": server_link, "copy": copy, "latency": latency}.items():
        if isinstance(given, str):
            found[name] = parse_seconds(given) if name == "latency" else parse_speed(given)
        elif given is not None:
            found[name] = given
    return Cluster(
        workers=workers,
        group_size=group_size,
        servers=servers,
        colocated=colocated,
        server_memory=parse_speed(server_memory),
        bus=parse_speed(bus),
        **found,
    )
