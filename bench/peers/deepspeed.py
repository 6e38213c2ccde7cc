"""DeepSpeed on processors over gloo: ZeRO stage 1, which shares the optimizer's state out.

python -m bench.peers.deepspeed        (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment)
"""

import time

import deepspeed
import torch

from bench.cluster.compute import batches, loss_of, make
from bench.cluster.log import Log
from bench.cluster.place import rank, read_case


def main() -> None:
    """Train until the cluster is taken away."""
    case = read_case()
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    model = make(case, rank())
    engine, _, _, _ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=case.learning_rate, momentum=case.momentum),
        config={
            "train_micro_batch_size_per_gpu": case.batch,
            "zero_optimization": {"stage": 1},
            "zero_allow_untested_optimizer": True,
        },
    )
    log = Log(rank())
    for inputs, labels in batches(case, rank()):
        model.pace.begin()
        engine.backward(loss_of(case, engine(inputs), labels))
        compute = min(case.step_of(rank()), time.monotonic() - model.pace.start)
        engine.step()
        log.step(compute)


if __name__ == "__main__":
    main()
