"""A worker of a box on the emulated cluster: an ordinary training loop, whose steps are noted.

python -m bench.cluster.worker
"""

import time

import torch

import modum
from bench.cluster.compute import batches, loss_of, make, optimizer_of
from bench.cluster.log import Log
from bench.cluster.place import read_case
from modum.rules import Elastic, Hybrid
from modum.torch import Averager


def main() -> None:
    """Train until the cluster is taken away."""
    case = read_case()
    torch.set_num_threads(1)
    with modum.connect() as job:
        model = make(case, job.rank)
        optimizer = optimizer_of(case, model)
        between = Elastic(
            interval=case.interval,
            overlap=case.overlap,
            moving_rate=case.moving_rate,
            compression=case.compression,
        )
        rule = Hybrid(between=between)
        averager = Averager(job, model, optimizer, rule)
        log = Log(job.rank)
        for inputs, labels in batches(case, job.rank):
            model.pace.begin()
            optimizer.zero_grad()
            loss_of(case, model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            compute = time.monotonic() - model.pace.start
            optimizer.step()
            now = averager.statistics()
            log.step(
                compute,
                exchanges=now.exchanges,
                exchange_seconds=now.exchange_seconds,
                interval=now.interval,
                put_off=now.put_off,
            )


if __name__ == "__main__":
    main()
