"""A worker's first line: its place in the job, and the box that it shares."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from modum.box import Box, Server, new_token
from modum.launch.resolver import detect

__all__ = ["Job", "connect"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One worker's view of the job; a context manager that leaves it.

    Consecutive ranks make a group: `group` is `rank // group_size`, `group_rank` is `rank % group_size`, and
    `groups` is `world_size // group_size`.
    """

    box: Box
    rank: int
    world_size: int
    local_rank: int
    group: int
    groups: int
    group_rank: int
    group_size: int
    _server: Server | None = field(default=None, repr=False)

    def close(self) -> None:
        """Close the box, and the memory server if `connect` started one. Closing twice does nothing."""
        try:
            self.box.close()
        finally:
            if self._server is not None:
                self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def connect(*, transport: str = "auto", timeout: float = 30.0) -> Job:
    """Join the job that this process was started for.

    Under `modum run` that is the launcher's box. A script that was started alone (`python train.py`) takes
    the box that MODUM_BOX names, or else starts a memory server in its own process: the same script runs both
    ways.

    `transport` is `"auto"`, `"local"` or `"tcp"`, and `timeout` is in seconds, both as in `Box.connect`.
    Raises `ValueError` if the environment of this process is incomplete, and what `Box.connect` raises;
    nothing is left running then.
    """
    place = detect()
    servers, token, server = place.box_servers, place.token, None
    if not servers:
        if place.world_size > 1:
            raise ValueError(
                f"rank {place.rank} of {place.world_size} was told no box: MODUM_BOX is not set\n"
                f"HINT: start the workers with `modum run -n {place.world_size} train.py`, or start a "
                "`modum server` and set MODUM_BOX=host:port and MODUM_TOKEN for every worker"
            )
        token = new_token()
        server = Server(token=token)
        server.start()
        servers = (server.address,)
    try:
        box = Box.connect(servers, token=token, transport=transport, timeout=timeout)
    except BaseException:
        if server is not None:
            server.close()
        raise
    return Job(
        box=box,
        rank=place.rank,
        world_size=place.world_size,
        local_rank=place.local_rank,
        group=place.group,
        groups=place.groups,
        group_rank=place.group_rank,
        group_size=place.group_size,
        _server=server,
    )
