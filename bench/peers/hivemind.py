"""Hivemind's optimizer with local updates: peers find each other, and average their parameters now and then.

python -m bench.peers.hivemind
"""

import os
import time
from pathlib import Path

import hivemind
import torch

from bench.cluster.compute import batches, loss_of, make
from bench.cluster.log import Log
from bench.cluster.network import address
from bench.cluster.place import rank, read_case

AVERAGE_EVERY = 10
"""Steps of all peers together between two averagings, for each peer."""
PORT = 29600


def main() -> None:
    """Train until the cluster is taken away."""
    case = read_case()
    torch.set_num_threads(1)
    model = make(case, rank())
    first = Path(os.environ["BENCH_FOLDER"]) / "first.peer"
    while rank() and not first.exists():
        time.sleep(0.1)
    dht = hivemind.DHT(
        start=True,
        host_maddrs=[f"/ip4/{address(case.host_of(rank()))}/tcp/{PORT}"],
        initial_peers=first.read_text().split() if rank() else [],
    )
    if not rank():
        part = first.with_suffix(".part")
        part.write_text("\n".join(map(str, dht.get_visible_maddrs())))
        part.rename(first)
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="bench",
        batch_size_per_step=case.batch,
        target_batch_size=case.batch * case.workers * AVERAGE_EVERY,
        params=model.parameters(),
        optimizer=lambda params: torch.optim.SGD(params, lr=case.learning_rate, momentum=case.momentum),
        use_local_updates=True,
        matchmaking_time=2.0,
        averaging_timeout=60.0,
    )
    log = Log(rank())
    for inputs, labels in batches(case, rank()):
        model.pace.begin()
        optimizer.zero_grad()
        loss_of(case, model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        compute = time.monotonic() - model.pace.start
        optimizer.step()
        log.step(compute)


if __name__ == "__main__":
    main()
