"""The key-value store of torch.distributed at MASTER_ADDR:MASTER_PORT, by which process groups find each other."""

import os
from functools import cache
from typing import TYPE_CHECKING

from modum.errors import ModumError

if TYPE_CHECKING:
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

__all__ = ["job_store"]


def job_store(rank: int) -> "PrefixStore":
    """The store of this job; where the launcher does not keep one, rank 0 does, for as long as its process lives.

    Raises:
        ValueError: MASTER_ADDR or MASTER_PORT is missing or no port.
        ModumError: the port is taken, or nobody answers there.
    """
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if not host or not port or not port.isdigit():
        raise ValueError(
            f"MASTER_ADDR={host or ''!r} and MASTER_PORT={port or ''!r} do not name the store of this job\n"
            "HINT: call modum.connect() before the groups are made, or set both for every worker"
        )
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    kept_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = _store(host, int(port), rank == 0 and not kept_by_launcher)
    # torchrun keeps one store over all attempts of a job that it starts again
    return PrefixStore(f"modum/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@cache
def _store(host: str, port: int, master: bool) -> "TCPStore":
    from torch.distributed import DistNetworkError, DistStoreError, TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(host, port, is_master=master, wait_for_workers=False, multi_tenant=True)
    except (DistNetworkError, DistStoreError) as error:
        what = "keep" if master else "reach"
        raise ModumError(
            f"cannot {what} the store of torch.distributed at {host}:{port}: {str(error).splitlines()[0]}\n"
            "HINT: is another job at this port? Give this one another: MASTER_PORT, or torchrun --master-port"
        ) from None
