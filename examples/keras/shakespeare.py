"""Train an LSTM to foretell the next character of Shakespeare's tragedies, alone or with many workers.

python examples/keras/shakespeare.py
modum run -n 4 examples/keras/shakespeare.py
"""

import argparse
import math
from typing import Any

import keras
import numpy as np
from keras import layers

import modum
import modum.keras
from modum.data import shakespeare

LENGTH = 32
"""Characters in a sample."""


def lstm(characters: int) -> keras.Model:
    """An embedding, an LSTM and a dense layer: 58,000 parameters."""
    return keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(characters, 32),
            layers.LSTM(96, return_sequences=True),
            layers.Dense(characters),
        ],
        name="lstm",
    )


def windows(text: Any) -> tuple[Any, Any]:
    """[samples, LENGTH] characters, and those that follow each of them."""
    starts = np.arange(0, len(text) - LENGTH, LENGTH)[:, None]
    positions = starts + np.arange(LENGTH)
    return text[positions].astype(np.int32), text[positions + 1].astype(np.int32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rule", choices=("auto", "elastic", "drift", "downpour"), default="auto")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64, help="samples in a step of one group")
    parser.add_argument("--learning-rate", type=float, default=0.004)
    parser.add_argument("--learning-rate-scale", choices=("auto", "linear", "sqrt"), default="auto")
    parser.add_argument("--interval", type=int, default=4, help="steps between exchanges")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    text = shakespeare()
    test = windows(text.test)
    rule, scale = f"{options.rule}:interval={options.interval}", options.learning_rate_scale
    with modum.connect() as job, modum.keras.Averager(job, rule, learning_rate_scale=scale) as averager:
        keras.utils.set_random_seed(options.seed + job.rank)
        model = lstm(len(text.characters))
        model.compile(
            optimizer=keras.optimizers.Adam(options.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,  # on a CPU, XLA takes long to compile the steps of an LSTM
        )
        batches = averager.share(
            *windows(text.train), batch_size=options.batch_size, epochs=options.epochs, seed=options.seed
        )
        model.fit(
            batches,
            epochs=options.epochs,
            shuffle=False,  # the samples are drawn at random
            callbacks=[averager],
            validation_data=test if job.rank == 0 else None,  # of the shared weights
            validation_batch_size=256,
            verbose=2 if job.rank == 0 else 0,
        )
        if job.rank == 0:
            loss = model.evaluate(*test, batch_size=256, verbose=0)
            print(f"test perplexity {math.exp(loss):.3f} after {averager.samples.total:,} samples")
            model.save("lstm.keras")


if __name__ == "__main__":
    main()
