"""Adds to a buffer over all servers and says by which way each is reached; no framework is needed for that."""

import json
import sys

import numpy as np

import modum

SIZE = 3_000_000  # three stripes

with modum.connect() as job:
    box = job.box
    if job.rank == 0:
        total = box.create("total", SIZE)
        box.counter("made").add(1)
    else:
        box.counter("made").wait(1)
        total = box.open("total")
    total.add(np.full(SIZE, job.rank + 1, np.float32))
    box.counter("added").add(1)
    box.counter("added").wait(job.world_size)
    said = {
        "rank": job.rank,
        "place": [job.world_size, job.groups, job.group.size],
        "sums": np.unique(total.read()).tolist(),
        "servers": box.servers,
        "transports": box.transports,
    }
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
