"""Train a character model of recurrent layers in stages, one a worker, each with a part of the layers (Keras).

modum run -n 4 examples/pipeline/keras_text.py                        four asynchronous stages
modum run -n 4 examples/pipeline/keras_text.py --text shakespeare.txt
python examples/pipeline/keras_text.py                                the same script, unsplit

KERAS_BACKEND chooses the backend: tensorflow or torch.
"""

import argparse
import math
import pydoc_data.topics
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

import modum
from modum.keras import partition
from modum.pipeline import Pipeline

LENGTH = 48
"""Characters that the model sees at a time."""
TEST_SHARE = 10
"""One of so many pieces of the text is kept for the test."""
BATCHES = 20
"""Of the test."""


def pieces(text: str) -> tuple[NDArray[np.int32], int]:
    """The text as rows of LENGTH + 1 character numbers, each row beginning with the last of the row before; how many
    different characters there are.
    """
    characters, numbers = np.unique(np.array(list(text)), return_inverse=True)
    rows = (len(numbers) - 1) // LENGTH
    starts = np.arange(rows)[:, None] * LENGTH
    return numbers.astype(np.int32)[starts + np.arange(LENGTH + 1)], len(characters)


def network(characters: int, learning_rate: float) -> Any:
    """An embedding, two LSTM layers, a dense one."""
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            keras.layers.Embedding(characters, 48, name="embedding"),
            keras.layers.LSTM(128, return_sequences=True, name="lstm1"),
            keras.layers.LSTM(128, return_sequences=True, name="lstm2"),
            keras.layers.Dense(characters, name="characters"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, help="a text in UTF-8; without it, the reference of the Python language")
    parser.add_argument("--stages", type=int, help="stages of a pipeline; as many as workers if not given")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="file for the whole model (.keras)")
    options = parser.parse_args()
    text = options.text.read_text() if options.text else "\n".join(pydoc_data.topics.topics.values())
    rows, characters = pieces(text)
    is_test = np.arange(len(rows)) % TEST_SHARE == 0
    train, test = rows[~is_test], rows[is_test]
    keras.utils.set_random_seed(options.seed)

    with modum.connect() as job:
        stage = partition(job, lambda: network(characters, options.learning_rate), stages=options.stages)
        with Pipeline(job, stage) as pipeline:
            print(f"{pipeline.place}, {stage.part.count_params():,} parameters")
            batches = pipeline.share(
                train[:, :-1], train[:, 1:], batch_size=options.batch_size, epochs=options.epochs, seed=options.seed
            )
            for _ in pipeline.train(batches):
                pass  # a learning rate may be set here, on every worker: stage.optimizer.learning_rate = ...
            pipeline.finish()
            results = pipeline.evaluate(
                np.array_split(np.arange(len(test)), BATCHES),
                inputs=lambda batch: test[batch, :-1],
                labels=lambda batch: test[batch, 1:],
            )
            model = pipeline.model()
            if model is not None and pipeline.replica == 0:
                print(f"test perplexity {math.exp(results['loss']):.3f} after {batches.samples.total:,} samples")
                if options.save:
                    model.save(options.save)


if __name__ == "__main__":
    main()
