"""Keras models in stages, held against the unsplit models: all checks for one backend, in threads of one process.

    KERAS_BACKEND=... python partition.py DIRECTORY

Prints one line of JSON when a check is done: its name, and None or the traceback of its failure.
"""

import gc
import json
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests.jobs import job_of
from tests.pipeline.support import run_workers, unless_raised

from modum.box import Box, Server
from modum.keras import KerasStage, partition
from modum.pipeline import Mode, Pipeline
from modum.rules import Downpour, Elastic, UpdateRule

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((96, 8, 8, 1)).astype("float32")
TOKENS = RANDOM.integers(0, 11, (96, 4))
LABELS = RANDOM.integers(0, 5, 96)
BATCHES = [np.arange(start, start + 12) % 96 for start in range(0, 240, 12)]
BUILDING = threading.RLock()
"""Names and random numbers are the process's, and the stages share it here."""


def compiled(model: Any, **options: Any) -> Any:
    settings = {
        "optimizer": keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.05, 5, 0.9), momentum=0.9),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        **options,
    }
    model.compile(**settings)
    return model


def cnn(dropout: float = 0.3, scale: bool = True) -> Any:
    """Skip connections, batch normalization, regularization, dropout, an operator."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    first = keras.layers.Conv2D(4, 3, padding="same", name="conv1", kernel_regularizer="l2")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv2", activation="tanh")(first)
    x = keras.layers.BatchNormalization(name="norm")(x) if scale else x
    x = keras.layers.Add(name="join")([x, first])
    x = keras.layers.MaxPooling2D(name="pool")(x) * 0.5
    x = keras.layers.Flatten(name="flat")(x)
    x = keras.layers.Dropout(dropout, name="drop")(x)
    return compiled(keras.Model(inputs, keras.layers.Dense(5, kernel_regularizer="l2", name="out")(x)))


def rnn() -> Any:
    """A Sequential with masked recurrent layers."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Embedding(11, 6, mask_zero=True, name="embed"),
        keras.layers.LSTM(5, return_sequences=True, name="lstm1"),
        keras.layers.LSTM(4, name="lstm2"),
        keras.layers.Dense(5, name="out"),
    ]
    return compiled(keras.Sequential([keras.Input((4,), dtype="int32"), *layers]), optimizer="adam")


def forked() -> Any:
    """Two inputs and two outputs, of which one leaves early."""
    keras.utils.set_random_seed(0)
    image, token = keras.Input((8, 8, 1), name="image"), keras.Input((4,), dtype="int32", name="token")
    x = keras.layers.Dense(6, activation="tanh", name="look")(keras.layers.Flatten(name="flat")(image))
    early = keras.layers.Dense(5, name="early")(x)
    read = keras.layers.GlobalAveragePooling1D(name="mean")(keras.layers.Embedding(11, 6, name="read")(token))
    late = keras.layers.Dense(5, name="late")(keras.layers.Concatenate(name="both")([x, read]))
    model = keras.Model([image, token], {"early": early, "late": late})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(model, loss={"early": loss, "late": loss}, loss_weights={"early": 0.3, "late": 1.0}, metrics=None)


class Run:
    """A model trained in stages, each in a thread; what came of it."""

    def __init__(
        self,
        build: Callable[[], Any],
        at: Sequence[str],
        inputs: Callable[[Any], Any],
        labels: Callable[[Any], Any] = lambda batch: LABELS[batch],
        *,
        batches: Sequence[Any] = BATCHES,
        mode: Mode = "asynchronous",
        micro_batches: int = 1,
        pipelines: int = 1,
        rule: UpdateRule | None = None,
    ) -> None:
        def building() -> Any:
            with BUILDING:
                return build()

        def worker(rank: int, box: Box) -> tuple[Any, Any, Any, KerasStage]:
            job = job_of(box, rank, len(ranks))
            with BUILDING:
                stage = partition(job, building, at=at)
            with Pipeline(job, stage, mode=mode, micro_batches=micro_batches, rule=rule, timeout=60) as pipeline:
                steps = list(pipeline.train(batches, inputs=inputs, labels=labels))
                pipeline.finish()
                end = pipeline.evaluate([np.arange(48), np.arange(48, 96)], inputs=inputs, labels=labels)
                return steps, end, pipeline.model(), stage

        ranks = range(pipelines * (len(at) + 1))
        with Server(memory=1 << 26) as server:
            boxes = [Box.connect(server.address) for _ in ranks]
            try:
                outcomes = unless_raised(run_workers(worker, ranks, boxes))
            finally:
                for box in boxes:
                    box.close()
        self.losses = [step.loss for step in outcomes[0][0]]
        self.metrics = [step.metrics for step in outcomes[0][0]]
        self.end: dict[str, float] = outcomes[0][1]
        self.model = outcomes[0][2]
        self.stages: list[KerasStage] = [outcome[3] for outcome in outcomes]
        assert all(outcome[1] == self.end for outcome in outcomes[: len(at) + 1])


def arrays(model: Any) -> dict[str, Any]:
    return {variable.path: keras.ops.convert_to_numpy(variable.value) for variable in model.variables}


def assert_same(model: Any, expected: Any, atol: float = 2e-6) -> None:
    ours, theirs = arrays(model), arrays(expected)
    assert len(ours) == len(theirs)
    for (path, here), there in zip(ours.items(), theirs.values(), strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=atol, err_msg=path)


def unsplit(
    model: Any, inputs: Callable[[Any], Any], labels: Callable[[Any], Any] = lambda batch: LABELS[batch]
) -> Any:
    return [model.train_on_batch(inputs(batch), labels(batch), return_dict=True) for batch in BATCHES]


def gradients(model: Any, batch: Any, inputs: Any) -> list[Any]:
    """By the backend's own means, of the whole model."""
    variables = [variable.value for variable in model.trainable_variables]
    x = keras.ops.convert_to_tensor(inputs[batch])
    if keras.backend.backend() == "torch":
        for value in variables:
            value.grad = None
        model.compute_loss(None, keras.ops.convert_to_tensor(LABELS[batch]), model(x, training=True)).backward()
        return [value.grad for value in variables]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = model.compute_loss(None, LABELS[batch], model(x, training=True))
    return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]


def delayed(build: Callable[[], Any], inputs: Any, delays: dict[str, int]) -> Any:
    """w(t+1) = w(t) - rate * grad f(w_1(t - d_1), ..., w_n(t - d_n)): section 3.3 of the paper on PipeDream."""
    model, old = build(), build()
    history = []
    ages = [delays[layer.name] for layer in model.layers for _ in layer.trainable_variables]
    for batch in BATCHES:
        history.append([keras.ops.convert_to_numpy(variable.value).copy() for variable in model.trainable_variables])
        for place, variable in enumerate(old.trainable_variables):
            variable.assign(history[max(0, len(history) - 1 - ages[place])][place])
        model.optimizer.apply(gradients(old, batch, inputs), model.trainable_variables)
    for variable, other in zip(model.non_trainable_variables, old.non_trainable_variables, strict=True):
        variable.assign(other)  # statistics and seeds
    return model


# ---- checks


def images(batch: Any) -> Any:
    return IMAGES[batch]


def tokens(batch: Any) -> Any:
    return TOKENS[batch]


def synchronous_stages_equal_the_unsplit_model_for_20_steps(directory: Path) -> None:
    run = Run(cnn, ["join", "drop"], images, mode="synchronous")
    model = cnn()
    steps = unsplit(model, images)
    assert_same(run.model, model)
    np.testing.assert_allclose([metrics["accuracy"] for metrics in run.metrics], [step["accuracy"] for step in steps])
    # of the losses of the layers, the last stage knows its own
    conv1 = model.get_layer("conv1")
    extra = float(keras.ops.convert_to_numpy(conv1.losses[0]))
    loss, accuracy = model.evaluate(IMAGES, LABELS, verbose=0)
    np.testing.assert_allclose([run.end["loss"] + extra, run.end["accuracy"]], [loss, accuracy], rtol=1e-5)


def micro_batches_add_up_to_their_batch(directory: Path) -> None:
    def build() -> Any:
        return cnn(dropout=0.0, scale=False)

    run = Run(build, ["conv2", "pool"], images, mode="synchronous", micro_batches=4)
    model = build()
    unsplit(model, images)
    assert_same(run.model, model)


def asynchronous_stages_follow_the_published_equation(directory: Path) -> None:
    run = Run(cnn, ["conv2", "pool", "drop"], images)
    model = delayed(cnn, IMAGES, {"conv1": 3, "conv2": 2, "norm": 2, "out": 0})
    assert_same(run.model, model, atol=1e-5)
    assert [stage.part.count_params() for stage in run.stages] == [40, 148 + 16, 0, 64 * 5 + 5]


def recurrent_layers_and_masks_work_in_stages(directory: Path) -> None:
    run = Run(rnn, ["lstm1", "lstm2", "out"], tokens)
    model = delayed(rnn, TOKENS, {"embed": 3, "lstm1": 2, "lstm2": 1, "out": 0})
    assert_same(run.model, model, atol=1e-5)


def several_inputs_and_outputs_cross_the_cuts(directory: Path) -> None:
    def inputs(batch: Any) -> Any:
        return {"token": TOKENS[batch], "image": IMAGES[batch]}

    def labels(batch: Any) -> Any:
        return {"early": LABELS[batch], "late": LABELS[batch][::-1].copy()}

    run = Run(forked, ["look", "both"], inputs, labels, mode="synchronous")
    model = forked()
    steps = unsplit(model, inputs, labels)
    assert_same(run.model, model)
    np.testing.assert_allclose(run.losses, [step["loss"] for step in steps], rtol=1e-5)


def a_saved_model_opens_in_plain_keras(directory: Path) -> None:
    run = Run(rnn, ["lstm2"], tokens, batches=BATCHES[:3])
    run.model.save(directory / "model.keras")
    again = keras.saving.load_model(directory / "model.keras")
    for here, there in zip(again.get_weights(), run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)
    loss, accuracy = again.evaluate(TOKENS, LABELS, verbose=0)
    np.testing.assert_allclose([run.end["loss"], run.end["accuracy"]], [loss, accuracy], rtol=1e-5)


def two_pipelines_share_their_stages(directory: Path) -> None:
    rules: dict[str, UpdateRule] = {"torch": Downpour(interval=4), "tensorflow": Elastic(interval=4)}
    run = Run(cnn, ["join"], images, batches=BATCHES[:9], pipelines=2, rule=rules[keras.backend.backend()])
    for stage, twin in zip(run.stages[:2], run.stages[2:], strict=True):
        for here, there in zip(stage.weights(), twin.weights(), strict=True):
            assert np.array_equal(here.array, there.array) or "seed" in here.name, here.name


def a_worker_holds_its_own_variables_only(directory: Path) -> None:
    def alive() -> dict[int, Any]:
        gc.collect()
        return {id(thing): thing for thing in gc.get_objects() if issubclass(type(thing), keras.Variable)}

    with Server(memory=1 << 24) as server, Box.connect(server.address) as box:
        keras.utils.clear_session()
        before = alive()
        stage = partition(job_of(box, 1, 3), cnn, at=["conv2", "pool"])
        made = {id(thing) for thing in alive().values()} - before.keys()
        own = [*stage.part.variables, *stage.optimizer.variables, *stage.part.metrics_variables]
        assert made == {id(variable) for variable in own}
        assert {variable.path.split("/")[0] for variable in stage.part.variables} == {"conv2", "norm"}
        assert stage.layers == ("conv2", "norm", "join")


def layers_are_shared_out_by_the_time_they_take_and_the_model_stays(directory: Path) -> None:
    with Server(memory=1 << 24) as server, Box.connect(server.address) as box:
        model = cnn()
        before = arrays(model)
        nodes = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
        stage = partition(job_of(box, 0, 3), model)
        assert stage.layers[0] == "conv1"
        assert 1 <= len(stage.layers) <= 7
        for path, value in arrays(model).items():
            np.testing.assert_array_equal(value, before[path], err_msg=path)
        assert nodes == {layer.name: len(layer._inbound_nodes) for layer in model.layers}
        again = stage.assemble({
            f"{layer.name}/{place}/{variable.name}": keras.ops.convert_to_numpy(variable.value)
            for layer in model.layers
            for place, variable in enumerate(layer.variables)
        })  # fmt: skip
        assert_same(again, model, atol=0)


def wrong_input_is_refused(directory: Path) -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    class Odd(keras.layers.Dense):  # type: ignore[misc]
        def __init__(self, units: int, other: int, **options: Any) -> None:
            super().__init__(units, **options)

    def small(*layers: Any, **options: Any) -> Any:
        return compiled(keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2, name="last")]), **options)

    dense = keras.layers.Dense(4, name="dense")
    inputs = keras.Input((4,))
    twice = compiled(keras.Model(inputs, keras.layers.ReLU(name="relu")(dense(keras.layers.ReLU()(dense(inputs))))))
    unknown = compiled(keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(2), keras.layers.Dense(2)]))
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (compiled(keras.Sequential([keras.layers.Dense(2)])), {}, ValueError, "not built.*model.build"),
        (compiled(Own()), {}, TypeError, "Own calls its layers in code of its own.*keras.Model"),
        ("model", {}, TypeError, "is a str, not a keras.Model"),
        (keras.Sequential([keras.Input((4,)), dense]), {}, ValueError, "call model.compile"),
        (small(), {"at": ["lost"]}, ValueError, "none of the 1 layers is called 'lost'. Did you mean last"),
        (small(), {}, ValueError, r"stages \(2\) must be at most 1: the model has 1 layers.*fewer"),
        (twice, {"at": ["dense:2"]}, ValueError, "before 'dense:2': dense and dense:2 share variables"),
        (unknown, {}, ValueError, r"unknown extent.*sample="),
        (small(Odd(3, 4, name="odd")), {"at": ["last"]}, ValueError, "'odd' .Odd. cannot be made anew from its config"),
        (small(dense, optimizer=scaled), {"at": ["last"]}, ValueError, "scales the loss.*mixed_bfloat16"),
    ]
    with Server(memory=1 << 24) as server:
        for number, (model, options, kind, message) in enumerate(cases):
            with Box.connect(server.address) as box:
                with pytest.raises(kind, match=f"(?s){message}"):
                    partition(job_of(box, 0, 2), model, name=f"case{number}", **options)


def what_a_function_has_made_besides_the_stage_is_freed_at_once(directory: Path) -> None:
    """Without a collection, and though layers are in cycles; the stage's own variables are not copied."""
    made: list[weakref.ref[Any]] = []

    def model() -> Any:
        whole = cnn()
        made.extend(weakref.ref(variable) for variable in whole.variables)
        return whole

    gc.disable()
    try:
        with Server(memory=1 << 24) as server, Box.connect(server.address) as box:
            stage = partition(job_of(box, 1, 2), model, at=["norm"])
        alive = {id(found) for each in made if (found := each()) is not None}
    finally:
        gc.enable()
    assert len(alive) < len(made)
    assert alive == {id(variable) for variable in stage.part.variables}


def equal_layers_are_measured_once(directory: Path) -> None:
    inputs = keras.Input((4,))
    x = inputs
    for number in range(6):
        x = keras.layers.Dense(4, name=f"same{number}")(x)
    model = compiled(keras.Model(inputs, keras.layers.Dense(5, name="last")(x)))
    calls = dict.fromkeys([layer.name for layer in model.layers[1:]], 0)
    for layer in model.layers[1:]:
        plain = layer.call

        def call(*args: Any, name: str = layer.name, plain: Any = plain, **kwargs: Any) -> Any:
            calls[name] += 1
            return plain(*args, **kwargs)

        layer.call = call
    with Server(memory=1 << 24) as server, Box.connect(server.address) as box:
        partition(job_of(box, 0, 2), model, stages=2)
    # those of the kind of the first one are called once each, to have what the next one takes
    assert [calls[f"same{number}"] for number in range(1, 6)] == [1] * 5


CHECKS = [
    synchronous_stages_equal_the_unsplit_model_for_20_steps,
    micro_batches_add_up_to_their_batch,
    asynchronous_stages_follow_the_published_equation,
    recurrent_layers_and_masks_work_in_stages,
    several_inputs_and_outputs_cross_the_cuts,
    a_saved_model_opens_in_plain_keras,
    two_pipelines_share_their_stages,
    a_worker_holds_its_own_variables_only,
    layers_are_shared_out_by_the_time_they_take_and_the_model_stays,
    what_a_function_has_made_besides_the_stage_is_freed_at_once,
    equal_layers_are_measured_once,
    wrong_input_is_refused,
]


def main(directory: Path) -> None:
    for check in CHECKS:
        failure = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                check(directory)
        except Exception:  # noqa: BLE001 - the test shows it
            failure = traceback.format_exc()
        print(json.dumps([check.__name__, failure]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
