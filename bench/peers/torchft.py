"""DiLoCo of torchft over gloo: replicas train alone and meet every `SYNC_EVERY` steps.

python -m bench.peers.torchft        (a lighthouse runs at LIGHTHOUSE)
"""

import os
import time
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torchft.local_sgd import DiLoCo
from torchft.manager import Manager
from torchft.process_group import ProcessGroupGloo

from bench.cluster.compute import batches, loss_of, make
from bench.cluster.log import Log
from bench.cluster.network import address
from bench.cluster.place import rank, read_case

SYNC_EVERY = 10


def main() -> None:
    """Train until the cluster is taken away."""
    case = read_case()
    torch.set_num_threads(1)
    model = make(case, rank())
    inner = torch.optim.SGD(model.parameters(), lr=case.learning_rate, momentum=case.momentum)
    outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    here = address(case.host_of(rank()))
    store = TCPStore(here, 0, is_master=True, wait_for_workers=False)  # each replica has one of its own

    def state() -> dict[str, Any]:
        return {"model": model.state_dict()}

    manager = Manager(
        pg=ProcessGroupGloo(),
        load_state_dict=lambda given: model.load_state_dict(given["model"]),
        state_dict=state,
        min_replica_size=case.workers,
        use_async_quorum=False,
        rank=0,
        world_size=1,
        store_addr=here,
        store_port=store.port,
        lighthouse_addr=os.environ["LIGHTHOUSE"],
        replica_id=f"worker{rank()}",
        hostname=here,
    )
    log = Log(rank())
    with DiLoCo(manager, [model], inner, outer, sync_every=SYNC_EVERY):
        for inputs, labels in batches(case, rank()):
            model.pace.begin()
            inner.zero_grad()
            loss_of(case, model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            compute = time.monotonic() - model.pace.start
            inner.step()
            log.step(compute)


if __name__ == "__main__":
    main()
