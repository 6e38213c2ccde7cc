"""A stage of three in NumPy; stage 1 is killed after its third update. Prints its updates."""

import os
import signal

import numpy as np

import modum
from modum.pipeline import Pipeline
from tests.pipeline.support import DenseStage, network

DATA = np.random.default_rng(1).standard_normal((40, 5)).astype(np.float32)

with modum.connect() as job:
    stage = DenseStage(job.rank, network(3))
    with Pipeline(job, stage, timeout=60) as pipeline:
        batches = [np.arange(6)] * 10_000
        for step in pipeline.train(batches, inputs=lambda batch: DATA[batch], labels=lambda batch: DATA[batch]):
            print(step.number, flush=True)
            if job.rank == 1 and step.number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
