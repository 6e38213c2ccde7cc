"""TensorFlow's ParameterServerStrategy, as its guide has it: a coordinator gives steps to workers, asynchronously.

    python -m bench.peers.tensorflow        (TF_CONFIG in the environment)

Variables lie round-robin on the parameter servers; with several of these, large variables are cut, as the guide
recommends. The computing of
a GPU is emulated as in `bench.cluster.compute`, here by an operation of tf.data that sleeps.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.cluster.case import Case
from bench.cluster.compute import FORWARD, LAYERS, Snapshots, make, pictures
from bench.cluster.log import Log
from bench.cluster.place import read_case

import tensorflow as tf  # isort: skip
from tensorflow.python.data.experimental.ops import testing  # isort: skip


LEAST_SHARD = 64 << 10
"""Bytes of the parts into which variables are cut: those of the guide (256 KiB) would leave small models whole."""
STEP = "(?s).*BENCH_STEP=([0-9.]+).*"


def wait(x: Any, start: Any, share: float, seconds: Any) -> Any:
    """``x``, when ``share`` of a step of ``seconds`` that began at ``start`` is over."""
    with tf.control_dependencies([x]):
        left = start + share * seconds - tf.timestamp()
        pause = tf.cast(tf.maximum(left, 0.0) * 1e6, tf.int64)
        slept = tf.data.Dataset.range(1).apply(testing.sleep(pause)).reduce(np.int64(0), lambda total, one: total + one)
    with tf.control_dependencies([slept]):
        return tf.identity(x)


def pad(x: Any, start: Any, seconds: Any, before: float, after: float) -> Any:
    """See `bench.cluster.compute.Padded`."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def padded(x: Any) -> Any:
        def backward(gradient: Any) -> Any:
            return wait(gradient, start, 1 - (1 - FORWARD) * before, seconds)

        return wait(x, start, FORWARD * after, seconds), backward

    return padded(x)


def forward(case: Case, weights: list[Any], x: Any, start: Any, seconds: Any) -> Any:
    """The models of `bench.cluster.compute`, of the same weights in TensorFlow's layout."""
    if case.model == "dense":
        for index, weight in enumerate(weights):
            x = pad(tf.matmul(x, weight, transpose_b=True), start, seconds, index / LAYERS, (index + 1) / LAYERS)
        return x
    if case.model == "rnn":
        return recurrent(weights, x, start, seconds)
    first, first_bias, second, second_bias, third, third_bias, last, last_bias = weights
    x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, first, 1, "SAME") + first_bias), 2, 2, "VALID")
    x = pad(x, start, seconds, 0.0, 0.25)
    x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, second, 1, "SAME") + second_bias), 2, 2, "VALID")
    x = pad(x, start, seconds, 0.25, 0.5)
    x = tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, 32 * 7 * 7))
    x = pad(tf.nn.relu(tf.matmul(x, third, transpose_b=True) + third_bias), start, seconds, 0.5, 0.75)
    return pad(tf.matmul(x, last, transpose_b=True) + last_bias, start, seconds, 0.75, 1.0)


def recurrent(weights: list[Any], x: Any, start: Any, seconds: Any) -> Any:
    """An LSTM in PyTorch's layout, over the rows; weights are read once, not for each row."""
    inputs, hidden, input_bias, hidden_bias, last, last_bias = weights
    units = hidden.shape[1]
    state = memory = tf.zeros((tf.shape(x)[0], units))
    rows = tf.unstack(tf.squeeze(x, -1), num=28, axis=1)
    for row in rows:
        gates = tf.matmul(row, inputs, transpose_b=True) + tf.matmul(state, hidden, transpose_b=True)
        take, keep, new, out = tf.split(gates + input_bias + hidden_bias, 4, axis=1)
        memory = tf.sigmoid(keep) * memory + tf.sigmoid(take) * tf.tanh(new)
        state = tf.sigmoid(out) * tf.tanh(memory)
    state = pad(state, start, seconds, 0.0, 0.5)
    return pad(tf.matmul(state, last, transpose_b=True) + last_bias, start, seconds, 0.5, 1.0)


def shards(variable: Any) -> list[Any]:
    """The variables that it is cut into."""
    return list(getattr(variable, "variables", [variable]))


def apply(case: Case, part: Any, gradient: Any, slots: list[Any], step: Any) -> None:
    """Change a variable by the update of the case's optimizer number ``step``."""
    rate = case.learning_rate
    if case.optimizer == "adam":
        first, second = slots
        tf.raw_ops.ResourceApplyAdam(
            var=part.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=0.9**step,
            beta2_power=0.999**step,
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            grad=gradient,
        )
    elif slots:
        tf.raw_ops.ResourceApplyMomentum(
            var=part.handle, accum=slots[0].handle, lr=rate, grad=gradient, momentum=case.momentum
        )
    else:
        part.assign_sub(rate * gradient)


def to_tensorflow(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Filters are [height, width, in, out] here."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def to_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """And [out, in, height, width] there."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array))


def data(case: Case) -> Any:
    """A worker's batches, in an order of its own, each with the seconds that a step takes there."""
    return tf.data.Dataset.zip((_batches(case), _step_seconds().repeat()))


def _batches(case: Case) -> Any:
    if case.model == "dense":
        width = round((case.nbytes / 4 / LAYERS) ** 0.5)
        return tf.data.Dataset.from_tensors((tf.fill((1, width), 1e-3), tf.zeros(1, tf.int64))).repeat()
    # in files that every worker reads itself: arrays would be a part of the graph, which the coordinator sends
    files = [Path(os.environ["BENCH_FOLDER"]) / name for name in ("images", "labels")]
    for file, part in zip(files, pictures(train=True), strict=True):
        file.write_bytes(part.numpy().astype(np.uint8).tobytes())
    images, labels = (
        tf.data.FixedLengthRecordDataset(str(file), nbytes) for file, nbytes in zip(files, (28 * 28, 1), strict=True)
    )
    samples = tf.data.Dataset.zip((images, labels)).shuffle(60_000).repeat().batch(case.batch)

    def decode(images: Any, labels: Any) -> tuple[Any, Any]:
        pixels = tf.reshape(tf.io.decode_raw(images, tf.uint8), (-1, 28, 28, 1))
        numbers = tf.reshape(tf.io.decode_raw(labels, tf.uint8), (-1,))
        return tf.cast(pixels, tf.float32) / 255, tf.cast(numbers, tf.int64)

    return samples.map(decode)


def _step_seconds() -> Any:
    """From the environment of the process that reads it: this is the one thing that workers are told apart by."""
    lines = tf.data.TextLineDataset("/proc/self/environ").filter(lambda line: tf.strings.regex_full_match(line, STEP))
    return lines.map(lambda line: tf.strings.to_number(tf.strings.regex_replace(line, STEP, r"\1"), tf.float64)).take(1)


def coordinate(case: Case, resolver: Any) -> None:
    """Give steps to the workers until the cluster is taken away."""
    cut = tf.distribute.experimental.partitioners.MinSizePartitioner(LEAST_SHARD, case.servers)
    strategy = tf.distribute.ParameterServerStrategy(resolver, variable_partitioner=cut if case.servers > 1 else None)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    model = make(case, 0)
    with strategy.scope():
        variables = [tf.Variable(to_tensorflow(value.detach().numpy())) for value in model.parameters()]
        parts = [part for variable in variables for part in shards(variable)]
        moments = {"adam": 2, "sgd": 1 if case.momentum else 0}[case.optimizer]
        slots = [[_beside(strategy, part) for _ in range(moments)] for part in parts]
        steps = tf.Variable(0, dtype=tf.int64)

    @tf.function  # type: ignore[untyped-decorator]
    def step(iterator: Any) -> None:
        (x, y), seconds = next(iterator)
        start = tf.timestamp()
        with tf.GradientTape() as tape:
            # each is read once: a step has one version of it
            weights = [tf.concat([part.read_value() for part in shards(variable)], 0) for variable in variables]
            outputs = forward(case, weights, x, start, seconds)
            if case.model == "dense":
                loss = tf.reduce_mean(tf.square(outputs))
            else:
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs))
        gradients = tape.gradient(loss, parts)
        taken = tf.cast(steps, tf.float32) + 1
        for part, gradient, held in zip(parts, gradients, slots, strict=True):
            with tf.device(part.device):  # on the parameter server: only the gradient crosses the network
                apply(case, part, gradient, held, taken)
        steps.assign_add(1)

    iterator = iter(coordinator.create_per_worker_dataset(lambda: data(case)))
    log = Log(0)
    snapshots = Snapshots(case, 0)
    scheduled = 0
    while True:
        done = int(steps.numpy())
        log.step(0.0, count=done)
        while scheduled < done + 4 * case.workers:
            coordinator.schedule(step, args=(iterator,))
            scheduled += 1
        if snapshots.due():
            with torch.no_grad():
                for parameter, variable in zip(model.parameters(), variables, strict=True):
                    parameter.copy_(to_torch(tf.convert_to_tensor(variable).numpy()))
            snapshots.save(model)
        time.sleep(min(0.2, case.step_seconds / 4))


def _beside(strategy: Any, part: Any) -> Any:
    """A variable of zeros where ``part`` is."""
    with strategy.extended.colocate_vars_with(part):
        return tf.Variable(tf.zeros_like(part))


def main() -> None:
    """Do this process's part."""
    case = read_case()
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    task = json.loads(os.environ["TF_CONFIG"])["task"]["type"]
    tf.config.threading.set_intra_op_parallelism_threads(1)
    if task == "chief":
        coordinate(case, resolver)
    else:
        server = tf.distribute.Server(
            resolver.cluster_spec(), job_name=task, task_index=resolver.task_id, protocol="grpc"
        )
        server.join()


if __name__ == "__main__":
    main()
