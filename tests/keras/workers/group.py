"""A worker of a group, or of two that average asynchronously, on whatever backend.

group.py DIRECTORY: writes the model's weights to DIRECTORY/RANK.npz, and prints what it has done (JSON).
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import modum
import modum.keras

# Keras reads torch's tensors in a way that NumPy will give up
warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
STEPS, SIZE, RATE = 6, 8, 0.25
TOGETHER = 2 if keras.backend.backend() == "tensorflow" else 1
X = np.random.default_rng(3).standard_normal((STEPS * SIZE, 5)).astype("float32")
Y = X @ np.arange(5, dtype="float32")[:, None]


def line() -> Any:
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, name="dense")], name="line")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def net() -> Any:
    """Not compiled by XLA: it is small, and compiling takes seconds."""
    model = keras.Sequential(
        [
            *(keras.Input((5,)), layers.Dense(7, name="first"), layers.BatchNormalization(name="normal")),
            *(layers.Dropout(0.1, name="drop"), layers.Dense(1, name="last")),
        ],
        name="net",
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", steps_per_execution=TOGETHER, jit_compile=False)
    return model


with modum.connect() as job:
    rule = modum.Hybrid(between=modum.Elastic(moving_rate=RATE, interval=2, overlap=False))
    with modum.keras.Averager(job, rule, name="line") as averager:
        keras.utils.set_random_seed(0)  # the weights of whoever comes first are the shared ones
        # mean gradients of parts are those of the whole batch: one group trains as one worker does
        first = line()
        if job.rank == 0:
            np.savez(Path(sys.argv[1]) / "start.npz", *first.get_weights())
        data = averager.share(X, Y, batch_size=SIZE, block=SIZE, seed=1)
        history = first.fit(data, verbose=0, shuffle=False, callbacks=[averager]).history
        line_weights = first.get_weights()
    with modum.keras.Averager(job, modum.Hybrid(), name="net") as averager:
        second = net()
        data = averager.share(X, Y, batch_size=4, epochs=4, block=16)
        second.fit(data, epochs=4, verbose=0, shuffle=False, callbacks=[averager])
        first.fit(X, Y, batch_size=16, epochs=1, verbose=0)  # as ever again, by this worker alone
    np.savez(Path(sys.argv[1]) / f"{job.rank}.npz", *line_weights, *second.get_weights())
    print(json.dumps({"loss": history["loss"], "epochs": len(second.history.epoch)}))
