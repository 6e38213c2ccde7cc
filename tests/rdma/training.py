"""One of two workers that train together through a box: stochastic gradients, elastic averaging, and shared sums.

The loss is the squared distance to a vector, of which every step sees half the coordinates. The workers take turns at
the box, so that the result is the same to the bit on every transport.
"""

import hashlib
from typing import Any

import numpy as np

from modum.box import Box

WORKERS, STEPS, INTERVAL, SIZE, BATCH = 2, 24, 3, 300_000, 8


def train(box: Box, rank: int) -> dict[str, Any]:
    """Train; the loss before and after, and what the box holds in the end."""
    truth = np.random.default_rng(7).integers(-9, 9, SIZE).astype(np.float32)
    turn, exchanges = box.counter("turn"), STEPS // INTERVAL
    if rank == 0:
        box.create("weights", SIZE)
        box.create("samples", 8, "int64")
        turn.add(1)
    turn.wait(1)
    weights, samples = box.open("weights"), box.open("samples")
    w = np.zeros(SIZE, np.float32)
    batches = np.random.default_rng(rank)
    for step in range(1, STEPS + 1):
        seen = batches.integers(0, 2, SIZE, np.int8)
        w -= np.float32(0.3) * seen * (w - truth)
        if step % INTERVAL == 0:
            turn.wait(1 + (step // INTERVAL - 1) * WORKERS + rank)
            weights.exchange(w, 0.45)
            samples.add(np.full(8, BATCH * INTERVAL, np.int64))
            turn.add(1)
    turn.wait(1 + exchanges * WORKERS)
    shared = weights.read()
    return {
        "transport": box.transports[0],
        "before": float(truth @ truth),
        "after": float((shared - truth) @ (shared - truth)),
        "samples": samples.read().tolist(),
        "version": weights.version,
        "hash": hashlib.sha256(shared.tobytes()).hexdigest(),
    }
