"""A worker that is asked to leave after its first batch; the others go on then.

Usage: preempted.py SIZE INTERVAL ASKED...: prints its process id once it has trained on a batch, and at the end a line
of JSON: its samples, its steps, and whether it found that it is to leave. ASKED are the ranks that are to be asked.
"""

import json
import os
import sys

import torch

import modum
from modum.rules import Elastic, Hybrid
from modum.torch import Averager
from modum.waiting import poll

SIZE, INTERVAL, ASKED = int(sys.argv[1]), int(sys.argv[2]), set(map(int, sys.argv[3:]))


def late() -> Exception:
    return AssertionError("nobody asked this worker to leave")


with modum.connect() as job:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with Averager(job, model, optimizer, Hybrid(between=Elastic(moving_rate=0.5, interval=INTERVAL))) as averager:
        samples: list[int] = []
        asked = job.box.counter("asked")
        for batch in averager.indices(size=SIZE, batch_size=4, block=40):
            model.weight.grad = -torch.ones(1, 1)
            optimizer.step()
            samples += batch.tolist()
            if averager.statistics().steps == 1:
                print(os.getpid(), flush=True)
                if job.rank in ASKED:
                    poll(lambda: job.stopping, timeout=60, error=late)
                    asked.add(1)
                asked.wait(len(ASKED), 60)
        averager.finish()
        print(json.dumps([samples, averager.statistics().steps, averager.leaving]), flush=True)
