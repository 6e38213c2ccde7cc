"""Train a dense net on Fashion-MNIST with TensorFlow alone: a tf.Module, a GradientTape, and a loop of one's own.

python examples/tensorflow/fashion_mnist.py
modum run -n 4 examples/tensorflow/fashion_mnist.py
modum run -n 4 --group-size 2 examples/tensorflow/fashion_mnist.py
"""

import argparse
import math
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

import modum
from modum.data import fashion_mnist
from modum.tensorflow import Averager, launched_group


class Net(tf.Module):  # type: ignore[misc]
    """Three dense layers: 235,000 parameters."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = np.random.default_rng(seed)
        widths = (28 * 28, 256, 128, 10)
        self.weights, self.biases = [], []
        for layer, (ins, outs) in enumerate(pairwise(widths)):
            start = generator.standard_normal((ins, outs)) * math.sqrt(2 / ins)
            self.weights.append(tf.Variable(start, dtype=tf.float32, name=f"weight{layer}"))
            self.biases.append(tf.Variable(tf.zeros(outs), name=f"bias{layer}"))

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        x = (tf.reshape(tf.cast(images, tf.float32), [-1, 28 * 28]) - 73) / 90
        for weight, bias in zip(self.weights[:-1], self.biases, strict=False):
            x = tf.nn.relu(x @ weight + bias)
        return x @ self.weights[-1] + self.biases[-1]


def accuracy(net: Net, images: Any, labels: Any) -> float:
    """The share of images that the net labels rightly, in percent."""
    parts = np.split(images, 10)
    return 100 * float(np.mean(np.concatenate([np.argmax(net(part), 1) for part in parts]) == labels))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="samples in a step of one group")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = fashion_mnist()
    images, labels = data.train_images, data.train_labels

    with modum.connect() as job:
        group = launched_group(job)  # before TensorFlow computes anything
        net = Net(options.seed + job.rank)
        momenta = [tf.Variable(tf.zeros_like(variable)) for variable in net.trainable_variables]
        rate = tf.Variable(options.learning_rate)
        rule = modum.Hybrid(inside=group, between=modum.Elastic(interval=4))
        with Averager(job, net, rule, learning_rate_scale="sqrt", warmup_steps=100) as averager:

            @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
            def train_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, net(x)))
                gradients = averager.gradients(tape.gradient(loss, net.trainable_variables))
                for variable, momentum, gradient in zip(net.trainable_variables, momenta, gradients, strict=True):
                    momentum.assign(0.9 * momentum + gradient)
                    variable.assign_sub(rate * momentum)
                return loss

            batches = averager.share(
                (images, labels), batch_size=options.batch_size, epochs=options.epochs, seed=options.seed
            )
            for step, (x, y) in enumerate(batches):
                rate.assign(options.learning_rate * averager.learning_rate_factor)
                loss = train_step(x, y)
                averager.step()
                if step % 20 == 0:
                    job.report(loss=float(loss))
            averager.finish()
            if job.rank == 0:
                with averager.shared_weights():
                    right = accuracy(net, data.test_images, data.test_labels)
                print(f"test accuracy {right:.2f} % after {batches.samples.total:,} samples")


if __name__ == "__main__":
    main()
