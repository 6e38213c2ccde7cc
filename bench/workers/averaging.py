"""A worker that exchanges a large model after every step, by its front end and by hand.

    python -m bench.workers.averaging ADDRESS FRAMEWORK NBYTES ROUNDS

Prints one JSON object: the seconds of each round, by side: ``exchange``, an exchange of as many numbers in NumPy's
memory, and ``averaging``, the end of a step: what arrived is subtracted, and a snapshot is taken of what goes next.
Both on one thread, as `modum run` starts its workers.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from bench.timing import take_turns, timed
from modum.averaging import Worker
from modum.box import Box
from modum.job import Job
from modum.rules import Elastic

LAYERS = 16
Stepping = tuple[Worker, Callable[[], object]]
"""An averager, and the end of a step."""
MOVING_RATE = 0.3


def on_tensorflow(nbytes: int, box: Box, stack: ExitStack) -> Stepping:
    """The end of a step of a model of `LAYERS` variables."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    from modum.tensorflow import Averager

    width = round((nbytes / 4 / LAYERS) ** 0.5)
    variables = [tf.Variable(tf.ones([width, width]), name=f"layer{number}") for number in range(LAYERS)]
    rule = Elastic(moving_rate=MOVING_RATE, interval=1, overlap=True)
    averager = stack.enter_context(Averager(Job(box), variables, rule))
    return averager.worker, averager.step


def on_torch(nbytes: int, box: Box, stack: ExitStack) -> Stepping:
    """The end of a step of a model of `LAYERS` layers; its optimizer does nothing beside."""
    import torch

    from bench.workers.model import make_model
    from modum.torch import Averager

    torch.set_num_threads(1)
    model = make_model(nbytes, LAYERS)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    rule = Elastic(moving_rate=MOVING_RATE, interval=1, overlap=True)
    return stack.enter_context(Averager(Job(box), model, optimizer, rule)).worker, optimizer.step


def when_arrived(worker: Stepping) -> Callable[[], float]:
    """Times the end of a step whose exchange has run while the worker was computing."""
    averager, end = worker

    def run() -> float:
        while averager.exchanging:
            time.sleep(0.001)
        return timed(end)()

    return run


def main(address: str, framework: str, nbytes: int, rounds: int) -> None:
    """Time both sides in turn."""
    with ExitStack() as stack:
        box = stack.enter_context(Box.connect(address, transport="local", threads=1))
        worker = {"tensorflow": on_tensorflow, "torch": on_torch}[framework](nbytes, box, stack)
        x = np.ones(nbytes // 4, np.float32)
        buffer = box.create("exchange", x.size)
        stack.callback(buffer.close)
        sides = {"exchange": timed(lambda: buffer.exchange(x, MOVING_RATE)), "averaging": when_arrived(worker)}
        print(json.dumps(take_turns(sides, rounds).samples))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
