"""Keras models that are trained through a box: all checks for one backend, in one process.

    KERAS_BACKEND=... python averaging.py DIRECTORY CHECK...

Prints one JSON object: for each check None, or the traceback of its failure.
"""

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import modum.keras
from modum.averaging import Membership
from modum.box import Box, Server
from modum.errors import MismatchError
from modum.job import Job
from modum.keras import Averager
from modum.observe.progress import read_progress
from modum.rules import Downpour, Elastic, Hybrid

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((96, 6)).astype("float32")
Y = RANDOM.integers(0, 3, 96)
QUICK = Elastic(moving_rate=0.5, interval=1, overlap=False)
TENSORFLOW = keras.backend.backend() == "tensorflow"


def line(weight: float = 4.0, dtype: str = "float32") -> Any:
    """One weight, whose gradient is the mean of the inputs, and a learning rate of a half."""
    dense = layers.Dense(1, use_bias=False, name="dense", dtype=dtype)
    model = keras.Sequential([keras.Input((1,)), dense], name="line")
    model.set_weights([np.array([[weight]])])
    model.compile(keras.optimizers.SGD(0.5), loss=lambda y, prediction: prediction)
    return model


def net(name: str = "net", width: int = 8, **options: Any) -> Any:
    """A net with a normalization, a dropout (which has a seed), and names that do not count up."""
    model = keras.Sequential(
        [
            *(keras.Input((6,)), layers.Dense(width, name="first"), layers.BatchNormalization(name="normal")),
            *(layers.Activation("relu", name="relu"), layers.Dropout(0.2, seed=1, name="drop")),
            layers.Dense(3, name="last"),
        ],
        name=name,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": loss, "metrics": ["accuracy"], **options})
    return model


def fit(model: Any, averager: Averager, data: Any = None, callbacks: Any = (), **options: Any) -> Any:
    data = averager.share(X, Y, batch_size=8) if data is None else data
    return model.fit(data, verbose=0, shuffle=False, callbacks=[averager, *callbacks], **options)


def shared(box: Box, name: str = "model/float32") -> Any:
    buffer = box.open(name)
    try:
        return buffer.read()
    finally:
        buffer.close()


def weights(model: Any) -> list[Any]:
    return [np.array(weight) for weight in model.get_weights()]


class Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Calls ``act`` with the callback's name, of those that ``names`` has."""

    def __init__(self, act: Callable[[str, Any], None], *names: str) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, lambda *args, name=name, **kwargs: act(name, self.model))


def one_worker_follows_a_hand_computation(box: Box, directory: Path) -> None:
    model = line()
    seen: list[tuple[float, float]] = []
    watch = Watch(lambda _, model: seen.append((weights(model)[0].item(), shared(box)[0].item())), "on_train_batch_end")
    with Averager(Job(box), QUICK) as averager:
        ones = averager.share(np.ones((3, 1), "float32"), np.ones((3, 1)), batch_size=1)
        fit(model, averager, ones, [watch])
        # W: 4 - 0.5 = 3.5, G = 4, d = -0.25; W: 3.25, d = -0.25; W: 3, d = -0.25
        assert seen == [(3.75, 3.75), (3.5, 3.5), (3.25, 3.25)]
        assert averager.statistics().exchanges == 4
        assert weights(model)[0].item() == shared(box)[0].item() == 3.25


def downpour_adds_every_update_once(box: Box, directory: Path) -> None:
    for number, overlap in enumerate((False, True)):
        name = f"line{number}"
        model = line(8.0)
        with Averager(Job(box), Hybrid(between=Downpour(interval=2, overlap=overlap)), name=name) as averager:
            data = averager.share(np.ones((7, 1), "float32"), np.ones((7, 1)), batch_size=1)
            fit(model, averager, data)
        assert weights(model)[0].item() == 8 - 7 * 0.5
        assert shared(box, f"{name}/float32")[0] == 8 - 7 * 0.5


def every_sample_is_done_once_an_epoch(box: Box, directory: Path) -> None:
    seen: list[list[int]] = []

    def load(indices: Any) -> tuple[Any, Any]:
        numbers = np.arange(96)[indices]
        trained.extend(numbers.tolist())
        return X[numbers], Y[numbers]

    trained: list[int] = []
    epochs = Watch(lambda *_: seen.append(list(trained)), "on_epoch_end")
    with Averager(Job(box), QUICK) as averager:
        data = averager.share(load, size=96, batch_size=10, epochs=3, block=32)
        history = fit(net(), averager, data, [epochs], epochs=3).history
        assert averager.samples.progress == 8 / 9
        assert averager.statistics().steps == 3 * 3 * 4
    assert len(history["loss"]) == 3
    if not TENSORFLOW:  # which loads ahead
        trained = trained[len(trained) - 3 * 96 :]
        assert all(sorted(trained[epoch * 96 : epoch * 96 + 96]) == list(range(96)) for epoch in range(3))
    progress = read_progress(box)
    assert progress is not None
    assert (progress.samples, progress.total, progress.steps) == (3 * 96, 3 * 96, 36)
    assert progress.loss is not None


def structures_and_sample_weights_are_passed_on(box: Box, directory: Path) -> None:
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    model = keras.Model(
        {"left": left, "right": right}, layers.Dense(3, name="out")(layers.Add()([left, right])), name="two"
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    with Averager(Job(box), QUICK) as averager:
        before = weights(model)
        data = averager.share({"left": X, "right": X}, Y, np.zeros(96, "float32"), batch_size=32)
        fit(model, averager, data)
        assert all(np.array_equal(now, then) for now, then in zip(weights(model), before, strict=True))
        with pytest.raises(ValueError, match=r"\[96, 96, 95\] samples"):
            averager.share({"left": X, "right": X}, Y[1:])
        with pytest.raises(ValueError, match=r"give np.array\(list\)"):
            averager.share([[1.0, 2.0], [3.0, 4.0]])
        with pytest.raises(ValueError, match="needs size="):
            averager.share(lambda indices: (X[indices], Y[indices]))


def a_step_of_several_and_mixed_precision_work(box: Box, directory: Path) -> None:
    together = 5 if TENSORFLOW else 1  # Keras has it on no other backend
    for policy in ("mixed_bfloat16", "mixed_float16") if TENSORFLOW else ("mixed_bfloat16",):
        keras.mixed_precision.set_dtype_policy(policy)
        try:
            model = net(steps_per_execution=together, jit_compile=TENSORFLOW)
        finally:
            keras.mixed_precision.set_dtype_policy("float32")
        with warnings.catch_warnings(), Averager(Job(box), name=policy) as averager:
            # Keras says so where the last execution has fewer steps
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            data = averager.share(X, Y, batch_size=8, epochs=2)
            fit(model, averager, data, epochs=2)
            assert averager.statistics().steps == 24
        start = shared(box, f"{policy}/float32")[:48].reshape(6, 8)
        np.testing.assert_array_equal(weights(model)[0], start)
        assert all(info.dtype == "float32" for info in box.list() if info.name.startswith(f"{policy}/float"))


def variables_are_bound_by_path_and_the_others_left_alone(box: Box, directory: Path) -> None:
    model = net()
    model.get_layer("first").trainable = False
    model.compile("sgd", model.loss)
    with Averager(Job(box), QUICK) as averager:
        fit(model, averager)
    (meta,) = (info.meta for info in box.list() if info.name == "model/float32")
    assert [(name, text.split(" ", 1)[0]) for name, text in meta["tensors"]] == [
        ("net/normal/gamma", "float32"),
        ("net/normal/beta", "float32"),
        ("net/last/kernel", "float32"),
        ("net/last/bias", "float32"),
        ("net/normal/moving_mean", "float32"),
        ("net/normal/moving_variance", "float32"),
    ]
    assert meta["model"] == {"backend": keras.backend.backend()}


def bfloat16_weights_are_shared_in_bfloat16(box: Box, directory: Path) -> None:
    model = line(4.0, "bfloat16")
    with Averager(Job(box), QUICK) as averager:
        data = averager.share(np.ones((3, 1), "float32"), np.ones((3, 1)), batch_size=1)
        fit(model, averager, data)
    assert keras.ops.convert_to_numpy(keras.ops.cast(model.weights[0], "float32")).item() == 3.25
    assert (int(shared(box, "model/bfloat16")[0]) << 16) == int(np.float32(3.25).view(np.uint32))


def shared_weights_are_in_the_model_between_epochs(box: Box, directory: Path) -> None:
    """For validation, for other callbacks, and what they save."""
    model = net()
    local: list[Any] = []
    found: list[tuple[str, bool]] = []

    def look(name: str, model: Any) -> None:
        if name == "on_train_batch_end":
            local[:] = weights(model)
            return
        kernel = weights(model)[0].ravel()
        is_shared = np.array_equal(kernel, shared(box)[: kernel.size])
        found.append((name, is_shared and not np.array_equal(kernel, local[0].ravel())))

    checkpoint = keras.callbacks.ModelCheckpoint(directory / "epoch{epoch}.keras")
    stop = keras.callbacks.EarlyStopping("val_loss", patience=5)
    watch = Watch(look, "on_test_begin", "on_epoch_end", "on_train_batch_end")
    with Averager(Job(box), Elastic(moving_rate=0.1, interval=2, overlap=False)) as averager:
        with pytest.raises(RuntimeError, match="before fit"), averager.shared_weights():
            pass
        inside: list[bool] = []

        def lend(_: str, model: Any) -> None:
            before = weights(model)
            with averager.shared_weights():
                inside.append(np.array_equal(weights(model)[0].ravel(), shared(box)[:48]))
            inside.append(all(np.array_equal(*pair) for pair in zip(before, weights(model), strict=True)))

        once = Watch(lend, "on_train_batch_end")
        data = averager.share(X, Y, batch_size=8, epochs=2)
        history = fit(model, averager, data, [once, watch, checkpoint, stop], epochs=2, validation_data=(X, Y)).history
        assert all(inside)
        assert found == [("on_test_begin", True), ("on_epoch_end", True)] * 2
        with averager.shared_weights():
            np.testing.assert_array_equal(weights(model)[0].ravel(), shared(box)[:48])
    saved = keras.saving.load_model(directory / "epoch2.keras")
    assert saved.evaluate(X, Y, verbose=0)[0] == pytest.approx(history["val_loss"][1], rel=1e-5)
    model.save(directory / "shared.keras")
    np.save(directory / "prediction.npy", model.predict(X, verbose=0))


def an_early_stop_ends_this_worker_and_leaves_its_samples_to_others(box: Box, directory: Path) -> None:
    stop = keras.callbacks.EarlyStopping("loss", patience=0, mode="max")
    model = net()
    with Averager(Job(box), QUICK) as averager:
        data = averager.share(X, Y, batch_size=8, epochs=30, block=16)
        other = Membership(box, "model/fit/0", leader=True)  # somebody who still trains is not waited for
        history = fit(model, averager, data, [stop], epochs=30).history
        other.leave()
        assert 1 < len(history["loss"]) < 30
        statistics = box.queue("model/samples/0", 30 * 6).statistics()
        assert statistics.done < statistics.size
    np.testing.assert_array_equal(weights(model)[0].ravel(), shared(box)[:48])


def one_callback_serves_several_fits(box: Box, directory: Path) -> None:
    model = net()
    with Averager(Job(box), QUICK) as averager:
        for _ in range(2):
            fit(model, averager)
            assert averager.statistics().steps == 12
        fit(model, averager, X, y=Y, batch_size=48, epochs=2)  # data of one's own
        assert averager.statistics().steps == 4
    np.testing.assert_array_equal(weights(model)[0].ravel(), shared(box)[:48])
    progress = read_progress(box)
    assert progress is not None
    assert (progress.samples, progress.steps) == (192, 28)


def the_learning_rate_is_scaled_around_each_step_only(box: Box, directory: Path) -> None:
    model = line(0.0)
    seen: list[tuple[float, float]] = []
    watch = Watch(
        lambda _, model: seen.append((weights(model)[0].item(), float(model.optimizer.learning_rate))),
        "on_train_batch_end",
    )
    rule = Elastic(moving_rate=0.5, interval=1000)
    with Averager(Job(box), rule, learning_rate_scale=3.0, warmup_steps=2) as averager:
        data = averager.share(np.ones((4, 1), "float32"), np.ones((4, 1)), batch_size=1)
        fit(model, averager, data, [watch])
    assert [weight for weight, _ in seen] == [-0.5, -1.5, -3.0, -4.5]
    assert {rate for _, rate in seen} == {0.5}

    class Failing(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
            raise ZeroDivisionError

    model = line(0.0)
    with Averager(Job(box), rule, name="failing", learning_rate_scale=3.0) as averager:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                fit(model, averager, averager.share(np.ones((4, 1), "float32"), np.ones((4, 1))), [Failing()])
        averager.close()
        assert float(model.optimizer.learning_rate) == 0.5
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with Averager(Job(box), rule, name="other", learning_rate_scale="sqrt") as averager:
        with pytest.raises(ValueError, match="multiply the schedule itself"):
            fit(net(optimizer=keras.optimizers.SGD(schedule)), averager, X, y=Y)


def wrong_input_is_refused(box: Box, directory: Path) -> None:
    with Averager(Job(box), QUICK) as averager:
        fit(net(), averager)
    with Averager(Job(box), QUICK) as averager:
        with pytest.raises(MismatchError, match=r"net/first/kernel: shared float32 \(6, 8\), here float32 \(6, 9\)"):
            fit(net(width=9), averager, X, y=Y)
    with Averager(Job(box), Elastic(interval=7)) as averager:
        with pytest.raises(MismatchError, match="interval: shared 1, here 7"):
            fit(net(), averager, X, y=Y)
    with Averager(Job(box), name="more epochs") as averager:
        with pytest.raises(ValueError, match=r"fit\(epochs=1\), but share\(epochs=2\)"):
            fit(net(), averager, averager.share(X, Y, epochs=2))
    with Averager(Job(box), name="frozen") as averager:
        model = net()
        model.trainable = False
        averager.set_model(model)
        averager.set_params({"epochs": 1})
        with pytest.raises(ValueError, match="no trainable variable"):
            averager.on_train_begin()
    with Averager(Job(box), name="half") as averager:
        with pytest.raises(ValueError, match=r"line/dense/kernel is .*float16, but only float32 and bfloat16"):
            fit(line(1.0, "float16"), averager, np.ones((1, 1)), y=np.ones((1, 1)))
    with Averager(Job(box), name="unbuilt") as averager:
        averager.set_model(keras.Sequential([layers.Dense(3)]))
        averager.set_params({"epochs": 1})
        with pytest.raises(RuntimeError, match="is not built"):
            averager.on_train_begin()


def a_model_that_another_backend_made_is_refused(box: Box, directory: Path) -> None:
    here, other = ("tensorflow", "torch") if TENSORFLOW else ("torch", "tensorflow")
    with Averager(Job(box), QUICK, name="ours") as averager:
        fit(net(), averager)
    (ours,) = (info for info in box.list() if info.name == "ours/float32")
    box.create("model/float32", ours.shape, meta={**ours.meta, "model": {"backend": other}}).close()
    with Averager(Job(box), QUICK) as averager:
        with pytest.raises(MismatchError, match=f"backend: shared {other}, here {here}"):
            fit(net(), averager, X, y=Y)


def a_backend_on_which_fit_cannot_be_followed_is_refused(box: Box, directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(
            RuntimeError, match=r"on the backends tensorflow and torch, not on jax(.|\n)*HINT: set KERAS_"
        ):
            Averager(Job(box))


CHECKS: dict[str, Callable[[Box, Path], None]] = {
    check.__name__: check
    for check in (
        one_worker_follows_a_hand_computation,
        downpour_adds_every_update_once,
        every_sample_is_done_once_an_epoch,
        structures_and_sample_weights_are_passed_on,
        a_step_of_several_and_mixed_precision_work,
        variables_are_bound_by_path_and_the_others_left_alone,
        bfloat16_weights_are_shared_in_bfloat16,
        shared_weights_are_in_the_model_between_epochs,
        an_early_stop_ends_this_worker_and_leaves_its_samples_to_others,
        one_callback_serves_several_fits,
        the_learning_rate_is_scaled_around_each_step_only,
        wrong_input_is_refused,
        a_model_that_another_backend_made_is_refused,
        a_backend_on_which_fit_cannot_be_followed_is_refused,
    )
}


def outcome(check: Callable[[Box, Path], None], directory: Path) -> str | None:
    """None, or how the check failed."""
    keras.utils.set_random_seed(0)
    try:
        with Server(memory=1 << 24) as server, Box.connect(server.address) as box, warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            check(box, directory)
    except BaseException:  # noqa: BLE001 - the test shows it
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    assert modum.keras.Averager is Averager
    if TENSORFLOW:
        assert "torch" not in sys.modules
    asked = sys.argv[2:] or list(CHECKS)
    print(json.dumps({name: outcome(CHECKS[name], Path(sys.argv[1])) for name in asked}))
