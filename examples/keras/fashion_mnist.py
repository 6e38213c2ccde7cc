"""Train a CNN or a dense net on Fashion-MNIST with Keras, alone or with many workers: the script is the same.

python examples/keras/fashion_mnist.py
modum run -n 4 examples/keras/fashion_mnist.py --model dense
KERAS_BACKEND=torch modum run -n 4 --group-size 2 examples/keras/fashion_mnist.py
"""

import argparse

import keras
from keras import layers

import modum
import modum.keras
from modum.data import fashion_mnist


def cnn() -> keras.Model:
    """Two convolutions and two dense layers: 56,000 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 90, offset=-0.81),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ],
        name="cnn",
    )


def dense() -> keras.Model:
    """Three dense layers: 235,000 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 90, offset=-0.81),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ],
        name="dense",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=("cnn", "dense"), default="cnn")
    parser.add_argument("--rule", choices=("auto", "elastic", "drift", "downpour"), default="auto")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="samples in a step of one group")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--learning-rate-scale", choices=("auto", "linear", "sqrt"), default="auto")
    parser.add_argument("--interval", type=int, default=4, help="steps between exchanges")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = fashion_mnist()
    rule, scale = f"{options.rule}:interval={options.interval}", options.learning_rate_scale
    with modum.connect() as job, modum.keras.Averager(job, rule, learning_rate_scale=scale) as averager:
        keras.utils.set_random_seed(options.seed + job.rank)
        model = {"cnn": cnn, "dense": dense}[options.model]()
        model.compile(
            optimizer=keras.optimizers.SGD(options.learning_rate, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        batches = averager.share(
            data.train_images[..., None],
            data.train_labels,
            batch_size=options.batch_size,
            epochs=options.epochs,
            seed=options.seed,
        )
        test = (data.test_images[..., None], data.test_labels)
        model.fit(
            batches,
            epochs=options.epochs,
            shuffle=False,  # the samples are drawn at random
            callbacks=[averager],
            validation_data=test if job.rank == 0 else None,  # of the shared weights
            validation_batch_size=500,
            verbose=2 if job.rank == 0 else 0,
        )
        if job.rank == 0:
            _, accuracy = model.evaluate(*test, batch_size=500, verbose=0)
            print(f"test accuracy {100 * accuracy:.2f} % after {averager.samples.total:,} samples")
            model.save(f"{options.model}.keras")


if __name__ == "__main__":
    main()
