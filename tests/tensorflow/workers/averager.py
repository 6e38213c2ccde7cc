"""TensorFlow variables that are trained through a box: all checks, in one process.

Prints one JSON object: for each check None, or the traceback of its failure.
"""

import json
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.support import elastic_reference, until

from modum.averaging import LearningRateScale, Worker
from modum.box import Box, Server
from modum.errors import MismatchError
from modum.groups import Alone
from modum.job import Job
from modum.rules import Downpour, Elastic, Hybrid
from modum.tensorflow import Averager, TensorFlowGroup, launched_group
from modum.tensorflow.averager import shared_variables
from modum.tensorflow.vector import SharedVariable, VariableVector

RULE = Elastic(moving_rate=0.5, interval=1, overlap=False)


class Net(tf.Module):  # type: ignore[misc]
    """Weights, a running mean, and a counter."""

    def __init__(self, seed: int, width: int = 7) -> None:
        super().__init__()
        start = np.random.default_rng(seed).standard_normal((5, width)).astype("float32")
        self.kernel = tf.Variable(start, name="kernel")
        self.bias = tf.Variable(tf.zeros(width), name="bias")
        self.mean = tf.Variable(tf.zeros(width), trainable=False, name="mean")
        self.count = tf.Variable(0, trainable=False, name="count")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        output = x @ self.kernel + self.bias
        self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(output, axis=0))
        self.count.assign_add(1)
        return output


def train(net: Net, x: Any) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(net(x) ** 2)
    for variable, gradient in zip(net.trainable_variables, tape.gradient(loss, net.trainable_variables), strict=True):
        variable.assign_sub(0.1 * gradient)


def shared(box: Box, name: str = "model/float32") -> Any:
    buffer = box.open(name)
    try:
        return buffer.read()
    finally:
        buffer.close()


def values(net: Net) -> list[Any]:
    return [variable.numpy() for variable in (*net.trainable_variables, net.mean)]


def batch(step: int) -> Any:
    return np.random.default_rng(step).standard_normal((6, 5)).astype("float32")


def a_snapshot_is_of_the_moment_when_it_was_taken(connect: Callable[[], Box]) -> None:
    """However the variables are updated before it is copied."""
    for dtype in (tf.float32, tf.bfloat16):
        variables = [tf.Variable(tf.ones(shape, dtype)) for shape in ((50, 7), (0,), (3,), ())]
        shared = [
            SharedVariable(name=str(number), variable=one, trainable=True) for number, one in enumerate(variables)
        ]
        vector = VariableVector(shared, TensorFlowGroup())

        def update(variables: list[tf.Variable] = variables) -> None:
            for variable in variables:
                variable.assign_sub(tf.ones_like(variable))

        for number, change in enumerate((update, tf.function(update), tf.function(update, jit_compile=True))):
            vector.snapshot()
            change()
            vector.arrived()
            taken = vector.staging[: 50 * 7].view(variables[0].numpy().dtype)
            np.testing.assert_array_equal(taken, np.full(50 * 7, 1 - number, taken.dtype))
            np.testing.assert_array_equal(variables[0].numpy(), np.full((50, 7), -number, taken.dtype))


def two_workers_in_turn_follow_the_equations(connect: Callable[[], Box]) -> None:
    """In a `tf.function` and outside, against variables that the NumPy reference moves."""
    rule = Elastic(moving_rate=0.3, interval=2, overlap=False)
    nets, references = [Net(0), Net(1)], [Net(0), Net(0)]
    compiled = tf.function(train)
    with ExitStack() as stack:
        averagers = [stack.enter_context(Averager(Job(connect()), net, rule)) for net in nets]
        center = values(Net(0))
        for step in range(6):
            for worker in range(2):
                x = batch(2 * step + worker)
                (compiled if worker else train)(nets[worker], x)
                averagers[worker].step()
                train(references[worker], x)
                if step % 2:
                    moved = values(references[worker])
                    for W, G in zip(moved, center, strict=True):
                        elastic_reference(W, G, 0.3)
                    variables = (*references[worker].trainable_variables, references[worker].mean)
                    for variable, W in zip(variables, moved, strict=True):
                        variable.assign(W)
                for ours, theirs in zip(values(nets[worker]), values(references[worker]), strict=True):
                    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)
        assert [net.count.numpy() for net in nets] == [6, 6]


def steps_may_be_taken_inside_a_function(connect: Callable[[], Box]) -> None:
    net, reference = Net(0), Net(0)
    x = batch(0)
    with (
        Averager(Job(connect()), net, RULE) as averager,
        Averager(Job(connect()), reference, RULE, name="reference") as other,
    ):

        @tf.function  # type: ignore[untyped-decorator]
        def steps(count: tf.Tensor) -> None:
            for _ in tf.range(count):
                train(net, x)
                averager.step()

        steps(tf.constant(5))
        for _ in range(5):
            train(reference, x)
            other.step()
        assert averager.statistics().steps == averager.statistics().exchanges == 5
        for ours, theirs in zip(values(net), values(reference), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def with_overlap_and_downpour_every_update_is_in_the_sum_once(connect: Callable[[], Box]) -> None:
    for rule in (Downpour(interval=2), Hybrid(between=Downpour(interval=1, overlap=False))):
        name = f"overlap {rule.overlap}"
        workers = [tf.Variable([0.0, 0.0, 0.0], name="w") for _ in range(2)]
        with ExitStack() as stack:
            averagers = [stack.enter_context(Averager(Job(connect()), [one], rule, name=name)) for one in workers]
            for number in range(10):
                worker = number % 3 % 2
                workers[worker].assign_add([1.0, 10.0, number])
                averagers[worker].step()
            for averager in averagers:
                averager.finish(None)
            for averager, variable in zip(averagers, workers, strict=True):
                averager.worker.pull()
                assert variable.numpy().tolist() == [10.0, 100.0, 45.0]


def variables_of_any_size_and_dtype_keep_their_values(connect: Callable[[], Box]) -> None:
    random = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [(), (0,), (17,), (3, 5, 2), (1,)]
    starts = [random.standard_normal(shape).astype("float32") for shape in shapes]
    workers = [
        [
            tf.Variable(start * (1 + worker), dtype=dtype, name="v")
            for dtype in (tf.float32, tf.bfloat16)
            for start in starts
        ]
        for worker in range(2)
    ]
    kept = [tf.identity(variable) for variable in workers[0]]
    box = connect()
    with Averager(Job(box), workers[0], RULE), Averager(Job(connect()), workers[1], RULE) as second:
        for first_one, second_one, before in zip(*workers, kept, strict=True):
            assert np.array_equal(first_one.numpy(), before.numpy())
            assert np.array_equal(second_one.numpy(), before.numpy())
            second_one.assign_add(tf.ones_like(second_one))
        second.step()
        for variable, before in zip(workers[1], kept, strict=True):
            step = 1e-6 if variable.dtype == tf.float32 else 0.02
            np.testing.assert_allclose(variable.numpy().astype("f"), before.numpy().astype("f") + 0.5, atol=step)
    assert [info.name for info in box.list() if info.name.startswith("model")] == ["model/bfloat16", "model/float32"]
    (meta,) = (info.meta for info in box.list() if info.name == "model/float32")
    names = [name for name, _ in meta["tensors"]]
    assert names == ["v", *(f"v#{number}" for number in range(2, 11))]


def what_lies_on_an_accelerator_crosses_in_one_piece_with_the_same_result(connect: Callable[[], Box]) -> None:
    """The way of variables on a GPU, which a CPU can go too."""
    nets = [Net(0), Net(0)]
    with ExitStack() as stack:
        workers = []
        for name, net in enumerate(nets):
            device = nets[1].kernel.device if name else None
            vector = VariableVector(shared_variables(net), TensorFlowGroup(), device=device)
            described = {"tensors": vector.layout.described()}
            scale = LearningRateScale()
            worker = Worker.join(Job(connect()), RULE, [vector], Alone(), name=str(name), scale=scale, model=described)
            stack.callback(worker.close)
            workers.append(worker)
        for step in range(3):
            for net, worker in zip(nets, workers, strict=True):
                train(net, batch(step))
                worker.stepped()
        for worker in workers:
            worker.pull()
        for ours, theirs in zip(*map(values, nets), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def shared_weights_are_lent_and_given_back(connect: Callable[[], Box]) -> None:
    net, box = Net(0), connect()
    with Averager(Job(box), net, Elastic(moving_rate=0.5, interval=1000)) as averager:
        train(net, batch(0))
        local = values(net)
        with averager.shared_weights():
            assert np.array_equal(values(net)[0], values(Net(0))[0])
            with pytest.raises(RuntimeError, match="leave the context first"):
                averager.step()
        assert all(np.array_equal(*pair) for pair in zip(values(net), local, strict=True))
        averager.finish()
        averager.worker.pull()
        assert set(net.kernel.numpy().ravel()) < set(shared(box))


def the_samples_and_the_learning_rate_are_shared(connect: Callable[[], Box]) -> None:
    net = Net(0)
    with Averager(Job(connect()), net, RULE, learning_rate_scale=3.0, warmup_steps=2) as averager:
        factors, seen = [], []
        for indices in averager.indices(size=20, batch_size=5):
            factors.append(averager.learning_rate_factor)
            seen += indices.tolist()
            averager.step()
            until(lambda: not averager.worker.exchanging)
        assert factors == [1.0, 2.0, 3.0, 3.0]
        assert sorted(seen) == list(range(20))
        gradients = [tf.ones(3), None]
        assert averager.gradients(gradients)[0] is gradients[0]
    assert launched_group(Job(connect())).size == 1


def wrong_input_is_refused(connect: Callable[[], Box]) -> None:
    with Averager(Job(connect()), Net(0)):
        with pytest.raises(MismatchError, match=r"kernel: shared float32 \(5, 7\), here float32 \(5, 8\)"):
            Averager(Job(connect()), Net(0, 8))
        with pytest.raises(MismatchError, match="rule: shared elastic, here downpour"):
            Averager(Job(connect()), Net(0), Downpour())
    with pytest.raises(ValueError, match=r"w is float64, but only float32 and bfloat16 can be shared"):
        Averager(Job(connect()), [tf.Variable([1.0], dtype=tf.float64, name="w")], name="double")
    with pytest.raises(ValueError, match="nothing is trainable"):
        Averager(Job(connect()), [tf.Variable([1.0], trainable=False)], name="frozen")
    with pytest.raises(ValueError, match="call the model once on a batch"):
        Averager(Job(connect()), tf.Module(), name="empty")


def variables_that_are_not_finite_take_the_shared_ones(connect: Callable[[], Box]) -> None:
    box = connect()
    net = Net(1)
    with Averager(Job(box), net, RULE) as averager:
        net.bias[2].assign(float("nan"))
        averager.step()
        assert averager.statistics().restored == 1
        assert np.isfinite(net.bias.numpy()).all()
        assert np.isfinite(shared(box)).all()


CHECKS = (
    variables_that_are_not_finite_take_the_shared_ones,
    two_workers_in_turn_follow_the_equations,
    steps_may_be_taken_inside_a_function,
    with_overlap_and_downpour_every_update_is_in_the_sum_once,
    variables_of_any_size_and_dtype_keep_their_values,
    what_lies_on_an_accelerator_crosses_in_one_piece_with_the_same_result,
    shared_weights_are_lent_and_given_back,
    the_samples_and_the_learning_rate_are_shared,
    a_snapshot_is_of_the_moment_when_it_was_taken,
    wrong_input_is_refused,
)


def outcome(check: Callable[[Callable[[], Box]], None]) -> str | None:
    """None, or how the check failed."""
    try:
        with Server(memory=1 << 24) as server, ExitStack() as stack:
            check(lambda: stack.enter_context(Box.connect(server.address)))
    except BaseException:  # noqa: BLE001 - the test shows it
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    found = {check.__name__: outcome(check) for check in CHECKS}
    assert "torch" not in sys.modules
    print(json.dumps(found))
