"""A `fit` that is asked to leave ends after its step, and another worker does what it has left; asserts so."""

from typing import Any

import keras
import numpy as np
from keras import layers

from modum.box import Box, Server
from modum.cluster.preemption import Preemption
from modum.job import Job
from modum.keras import Averager
from modum.rules import Elastic

X, Y = np.ones((96, 1), "float32"), np.ones((96, 1), "float32")
RULE = Elastic(moving_rate=0.5, interval=10**6)


class Asks(keras.callbacks.Callback):  # type: ignore[misc]
    """Asks this worker to leave at its second step."""

    def __init__(self, preemption: Preemption) -> None:
        super().__init__()
        self.preemption = preemption
        self.steps = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        if self.steps == 2:
            self.preemption.request()


def line() -> Any:
    """One weight, whose gradient is 1 at every step."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, name="dense")], name="line")
    model.set_weights([np.array([[0.0]])])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, prediction: prediction, jit_compile=False)
    return model


with Server(memory=1 << 24) as server, Box.connect(server.address) as box, Box.connect(server.address) as other:
    preemption = Preemption()
    with Averager(Job(box, world_size=2, preemption=preemption), RULE) as averager:
        data = averager.share(X, Y, batch_size=8, epochs=2, block=48)
        asks = Asks(preemption)
        model = line()
        model.fit(data, epochs=2, verbose=0, callbacks=[averager, asks])
        assert asks.steps == averager.statistics().steps == 2, asks.steps
        assert averager.control.stopped is None
        assert model.get_weights()[0].item() == -1.0  # half way from 0 to its own -2: the last exchange was made
    with Averager(Job(other, rank=1, world_size=2), RULE) as averager:
        data = averager.share(X, Y, batch_size=8, epochs=2, block=48)
        line().fit(data, epochs=2, verbose=0, callbacks=[averager])
        assert averager.statistics().steps == 24 - 2
    # with data of its own
    preemption = Preemption()
    with Averager(Job(box, preemption=preemption), RULE, name="own") as averager:
        asks = Asks(preemption)
        line().fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[averager, asks])
        assert asks.steps == 2, asks.steps
