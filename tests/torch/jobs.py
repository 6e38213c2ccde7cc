"""Workers in processes of their own, as `modum run` starts them."""

import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from modum.cluster.by_hand import ByHand

WORKERS = Path(__file__).parent / "workers"


def run_job(
    script: str | Path,
    *arguments: object,
    servers: str,
    workers: int,
    group_size: int,
    dying: Collection[int] = (),
    seconds: float = 100,
    variables: Mapping[str, str] | None = None,
) -> list[str]:
    """Run ``workers/<script>`` in ``workers`` processes, with more ``variables``; returns what each printed.

    All must end with status 0, but for the ranks in ``dying``.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", WORKERS / script, *map(str, arguments)],
            env={
                **os.environ,
                **ByHand(
                    rank=rank,
                    world_size=workers,
                    local_rank=rank,
                    group_size=group_size,
                    box_servers=tuple(servers.split(",")),
                ).variables(),
                "OMP_NUM_THREADS": "1",
                **(variables or {}),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(workers)
    ]
    try:
        ends = [(worker, *worker.communicate(timeout=seconds)) for worker in started]
    finally:
        kill(started)
    for rank, (worker, _, errors) in enumerate(ends):
        assert (worker.returncode != 0) == (rank in dying), errors
    return [output for _, output, _ in ends]


def kill(workers: Sequence[subprocess.Popen[str]]) -> None:
    """End what still runs."""
    for worker in workers:
        worker.kill()
        worker.wait()
        for stream in (worker.stdout, worker.stderr):
            if stream is not None:
                stream.close()
