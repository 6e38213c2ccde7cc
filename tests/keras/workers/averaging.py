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
from modum.box import Box, Server
from modum.errors import MismatchError, NotFiniteError
from modum.job import Job
from modum.keras import Averager
from modum.observe.progress import read_progress
from modum.rules import Downpour, Elastic, Hybrid

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((96, 6)).astype("float32")
Y = RANDOM.integers(0, 3, 96)
QUICK = Elastic(moving_rate=0.5, interval=1, overlap=False)
TENSORFLOW = keras.backend.backend() == "tensorflow"


def line(weight: float = 4.0, dtype: str = "float32", optimizer: Any = None) -> Any:
    """One weight, whose gradient is the mean of the inputs, and a learning rate of a half."""
    dense = layers.Dense(1, use_bias=False, name="dense", dtype=dtype)
    model = keras.Sequential([keras.Input((1,)), dense], name="line")
    model.set_weights([np.array([[weight]])])
    model.compile(optimizer or keras.optimizers.SGD(0.5), loss=lambda y, prediction: prediction, jit_compile=False)
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
    model.compile(
        **{
            "optimizer": keras.optimizers.Adam(0.01),
            "loss": loss,
            "metrics": ["accuracy"],
            "jit_compile": False,
            **options,
        }
    )
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


def seeing(name: str) -> tuple[Watch, list[list[Any]]]:
    """A callback that notes the model's weights at every event of this name, and where it does."""
    seen: list[list[Any]] = []
    return Watch(lambda _, model: seen.append(weights(model)), name), seen


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


def a_batch_that_spoils_the_weights_is_dropped(box: Box, directory: Path) -> None:
    """And what the optimizer remembers of it."""
    model = line(optimizer=keras.optimizers.Adam(0.5))
    x = np.ones((40, 1), "float32")
    x[7] = np.nan
    with Averager(Job(box), QUICK) as averager:
        fit(model, averager, averager.share(x, np.ones((40, 1)), batch_size=1))
        assert averager.statistics().restored == 1
        assert np.isfinite(weights(model)[0]).all()
        assert np.isfinite(shared(box)).all()
    with Averager(Job(box), QUICK, name="strict", on_nonfinite="raise") as averager:
        data = averager.share(x, np.ones((40, 1)), batch_size=1)
        with pytest.raises(NotFiniteError, match="kernel has numbers"):
            fit(line(), averager, data)


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


def the_final_model_is_the_moving_average_of_the_shared_weights(box: Box, directory: Path) -> None:
    """W, its average A, and the shared ones of both: G and S. Learning rate, momentum and moving rate are 1/2."""
    W = G = A = S = 4.0
    averages = []
    for step in range(4):
        W -= 0.5
        A = W if step == 0 else (A + W) / 2
        (W, G), (A, S) = ((W + G) / 2,) * 2, ((A + S) / 2,) * 2
        averages.append(S)
    S += (A - S) / 2  # the last exchange
    for swap in (False, True):
        optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
        model = line(optimizer=optimizer)
        swaps = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if swap else []
        watch, seen = seeing("on_epoch_end")
        name = f"ema{swap}"
        with Averager(Job(box), QUICK, name=name) as averager:
            ones = averager.share(np.ones((1, 1), "float32"), np.ones((1, 1)), batch_size=1, epochs=4)
            fit(model, averager, ones, [*swaps, watch], epochs=4)
        assert weights(model)[0].item() == S
        assert shared(box, f"{name}/float32")[[0, 16]].tolist() == [G, S]
        if swap:
            assert [each[0].item() for each in seen] == averages
        (meta,) = (info.meta for info in box.list() if info.name == f"{name}/float32")
        assert [path for path, _ in meta["tensors"]] == ["line/dense/kernel", "line/dense/kernel/average"]
    many = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.5, use_ema=True)))
    for number, optimizer in enumerate(
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5, use_ema=True)), many)
    ):
        model = line(optimizer=optimizer)
        with Averager(Job(box), QUICK, name=f"wrapped{number}") as averager:
            fit(model, averager, np.ones((4, 1), "float32"), y=np.ones((4, 1)), batch_size=1)
        assert weights(model)[0].item() == shared(box, f"wrapped{number}/float32")[16]


def another_box(box: Box) -> Box:
    """The box of another worker."""
    return Box.connect(box.servers)


class DiesError(Exception):
    pass


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes which epochs begin, and fails at the beginning of `dies`."""

    def __init__(self, dies: int | None = None) -> None:
        super().__init__()
        self.dies = dies
        self.begun: list[int] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.dies:
            raise DiesError
        self.begun.append(epoch)


def life_with_a_checkpoint(
    averager: Averager, backup: Path, *others: Any, plus: float, averager_first: bool
) -> list[list[Any]]:
    """A fit of four epochs that restores what there is; returns the weights before each step."""
    model = net()
    model.set_weights([weight + plus for weight in weights(model)])
    restore = keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False)
    both = [averager, restore] if averager_first else [restore, averager]
    watch, seen = seeing("on_train_batch_begin")
    data = averager.share(X, Y, batch_size=8, epochs=4)
    model.fit(data, epochs=4, verbose=0, shuffle=False, callbacks=[*both, watch, *others])
    return seen


def a_restored_checkpoint_is_where_the_job_begins(box: Box, directory: Path) -> None:
    """Whatever the order of the callbacks; the samples of the epochs before are left out."""
    for first in (True, False):
        backup, name = directory / f"backup{first}", f"life{first}"
        watch, seen = seeing("on_epoch_end")
        with Averager(Job(box), QUICK, name=f"{name}/0") as averager:
            with pytest.raises(DiesError):
                life_with_a_checkpoint(averager, backup, watch, Epochs(dies=3), plus=0, averager_first=first)
        epochs = Epochs()
        with Averager(Job(box), QUICK, name=f"{name}/1") as averager:
            found = life_with_a_checkpoint(averager, backup, epochs, plus=1, averager_first=first)
            assert averager.statistics().steps == 12
        assert epochs.begun == [3]
        if first:  # then it is the shared weights that were saved
            assert all(np.array_equal(now, then) for now, then in zip(found[0], seen[-1], strict=True))
        queue = box.queue(f"{name}/1/samples/0", 4).statistics()
        assert queue.done == queue.size == 4


def workers_without_the_checkpoint_begin_where_rank_0_does(box: Box, directory: Path) -> None:
    epochs = Epochs()
    with Averager(Job(box, world_size=2), QUICK) as averager:
        fit(net(), averager, averager.share(X, Y, batch_size=8, epochs=5), epochs=5, initial_epoch=2)
        assert averager.statistics().steps == 36
        with another_box(box) as other, Averager(Job(other, rank=1, world_size=2), QUICK) as late:
            fit(net(), late, X, y=Y, callbacks=[epochs], epochs=5)
        assert epochs.begun == [2, 3, 4]
    with another_box(box) as other, Averager(Job(other, rank=1, world_size=2), QUICK) as late:
        fit(net(), late, X, y=Y, epochs=5, initial_epoch=4)  # what is in the box is newer
        assert late.statistics().steps == 9
    with Averager(Job(box), QUICK) as averager:
        with pytest.raises(
            MismatchError, match=r"begins at epoch 6(.|\n)*come to epoch 5: what was restored would be lost"
        ):
            fit(net(), averager, X, y=Y, epochs=7, initial_epoch=6)
    with Averager(Job(box), QUICK, name="steps") as averager:
        data = averager.share(X, Y, batch_size=8)
        with pytest.raises(ValueError, match="leave steps_per_epoch away"):
            fit(net(), averager, data, epochs=4, initial_epoch=2, steps_per_epoch=4)


def what_would_wait_or_train_nothing_is_refused(box: Box, directory: Path) -> None:
    with Averager(Job(box), QUICK) as averager:
        data = averager.share(X, Y, batch_size=8)
        for look, options in (("fit", {"shuffle": False}), ("evaluate", {})):
            with pytest.raises(Exception, match="HINT: pass the Averager whose"):
                getattr(net(), look)(data, verbose=0, **options)
        with pytest.raises(ValueError, match="in the list of callbacks twice"):
            fit(net(), averager, data, [averager])
        history = fit(net(), averager, data).history  # nothing was lost by it
        assert len(history["loss"]) == 1
        assert averager.statistics().steps == 12
        with pytest.raises(Exception, match="HINT: call share again for the next fit"):
            fit(net(), averager, data)
    with Averager(Job(box), QUICK, name="small") as averager:
        with pytest.raises(Exception, match="HINT: pass the Averager whose"):
            net().evaluate(averager.share(X, Y, batch_size=50, epochs=2), verbose=0)
    job = Job(box)
    with Averager(job, QUICK, name="two") as averager, Averager(job, QUICK, name="two") as other:
        with pytest.raises(ValueError, match="another Averager of the name 'two' is in this fit"):
            fit(net(), averager, callbacks=[other])


def a_worker_for_which_nothing_is_left_ends_with_the_shared_weights(box: Box, directory: Path) -> None:
    with Averager(Job(box, world_size=2), QUICK) as averager:
        fit(net(), averager)
    ends = Watch(lambda *_: None, "on_train_end")
    with another_box(box) as late, Averager(Job(late, rank=1, world_size=2), QUICK) as averager:
        model = net()
        history = fit(model, averager, averager.share(X, Y, batch_size=8), [ends]).history
        assert not history
        assert averager.statistics().steps == 0
        np.testing.assert_array_equal(weights(model)[0].ravel(), shared(box)[:48])
        history = fit(model, averager).history  # the next samples are as ever
        assert len(history["loss"]) == 1


def what_callbacks_decide_is_for_all_workers(box: Box, directory: Path) -> None:
    """Rank 0 validates, reduces the rate twice, and stops; rank 1, which does not validate, follows."""
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=1e9)
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.1, min_delta=1e9)
    job = Job(box, world_size=2)
    with Averager(job, QUICK) as averager:
        with pytest.raises(RuntimeError, match="nothing to control yet"):
            averager.control.stop("nothing")
        data = averager.share(X, Y, batch_size=8, epochs=30, block=16)
        history = fit(net(), averager, data, [plateau, stop], epochs=30, validation_data=(X, Y)).history
        assert len(history["loss"]) == 3
        assert averager.control.stopped == "fit was stopped in rank 0"
        assert averager.control.validator() == 0
        epoch, results = averager.control.validation or (0, {})
        assert (epoch, results["val_loss"]) == (2, history["val_loss"][2])
        # the last change came after the last epoch
        assert averager.control.learning_rate == pytest.approx(0.001)
        statistics = box.queue("model/samples/0", 30 * 6).statistics()
        assert statistics.done < statistics.size
    with another_box(box) as other, Averager(Job(other, rank=1, world_size=2), QUICK) as averager:
        model = net()
        data = averager.share(X, Y, batch_size=8, epochs=30, block=16)
        assert not fit(model, averager, data, epochs=30).history
        np.testing.assert_array_equal(weights(model)[0].ravel(), shared(box)[:48])
    with another_box(box) as other, Averager(Job(other, rank=1, world_size=2), QUICK) as averager:
        assert len(fit(net(), averager, X, y=Y, epochs=5).history["loss"]) == 1


def a_worker_without_validation_follows_the_one_that_has_some(box: Box, directory: Path) -> None:
    job = Job(box, world_size=2)
    with Averager(job, QUICK) as averager:
        fit(net(), averager, X, y=Y)
    control = job.control("model/fit/0")
    rates: list[float] = []

    def act(_: str, model: Any) -> None:
        rates.append(round(float(model.optimizer.learning_rate), 6))
        if len(rates) == 2:
            control.validator(0)
            control.validation = (1, {"val_loss": 0.5})
            control.learning_rate = 0.002
        if len(rates) == 3:
            model.optimizer.learning_rate = 1.0  # is not for this worker to decide
        if len(rates) == 5:
            control.stop("enough")

    with another_box(box) as other, Averager(Job(other, rank=1, world_size=2), QUICK) as averager:
        history = fit(net(), averager, X, y=Y, callbacks=[Watch(act, "on_epoch_end")], epochs=9).history
    assert rates == [0.01, 0.01, 0.002, 0.002, 0.002, 0.002]
    assert history["val_loss"] == [0.5]
    assert control.learning_rate == 0.002


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
    assert (progress.samples, progress.total, progress.steps) == (192, 192, 28)


def layers_that_are_unfrozen_later_are_shared(box: Box, directory: Path) -> None:
    """Keras's recipe for fine-tuning: freeze, compile, fit, unfreeze, compile, fit; in two workers."""
    for rank in range(2):
        with another_box(box) as own, Averager(Job(own, rank=rank, world_size=2), QUICK) as averager:
            model = net()
            for trainable in (False, True):
                for layer in ("first", "normal"):
                    model.get_layer(layer).trainable = trainable
                model.compile(keras.optimizers.SGD(0.01), model.loss, jit_compile=False)
                if rank == 0 and trainable:
                    model.get_layer("first").set_weights([np.full((6, 8), 2.0), np.full(8, 3.0)])
                before = weights(model)
                fit(model, averager, X, y=Y, batch_size=24)
                assert averager.statistics().steps == 4
                kernel, name = weights(model)[0], "model/fit/1/float32" if trainable else "model/float32"
                assert np.array_equal(kernel, before[0]) == (not trainable)
                if trainable:
                    np.testing.assert_array_equal(kernel.ravel(), shared(box, name)[:48])
                    assert np.abs(kernel - 2).max() < 1  # it began with rank 0's
            fit(model, averager, X, y=Y, batch_size=24)
            np.testing.assert_array_equal(weights(model)[0].ravel(), shared(box, "model/fit/1/float32")[:48])
    (meta,) = (info.meta for info in box.list() if info.name == "model/float32")
    assert [name for name, _ in meta["tensors"]] == ["net/last/kernel", "net/last/bias"]


def pools_of_all_callbacks_are_counted_together(box: Box, directory: Path) -> None:
    """One after the other, of one name or of several: none finds the samples of another one done."""
    job = Job(box)
    for name in ("model", "model", "other"):
        with Averager(job, QUICK, name=name) as averager:
            assert len(fit(net(), averager).history["loss"]) == 1
    progress = read_progress(box)
    assert progress is not None
    assert (progress.samples, progress.total) == (288, 288)


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
        a_batch_that_spoils_the_weights_is_dropped,
        every_sample_is_done_once_an_epoch,
        structures_and_sample_weights_are_passed_on,
        a_step_of_several_and_mixed_precision_work,
        variables_are_bound_by_path_and_the_others_left_alone,
        bfloat16_weights_are_shared_in_bfloat16,
        shared_weights_are_in_the_model_between_epochs,
        what_callbacks_decide_is_for_all_workers,
        a_worker_without_validation_follows_the_one_that_has_some,
        the_final_model_is_the_moving_average_of_the_shared_weights,
        one_callback_serves_several_fits,
        a_restored_checkpoint_is_where_the_job_begins,
        workers_without_the_checkpoint_begin_where_rank_0_does,
        what_would_wait_or_train_nothing_is_refused,
        a_worker_for_which_nothing_is_left_ends_with_the_shared_weights,
        layers_that_are_unfrozen_later_are_shared,
        pools_of_all_callbacks_are_counted_together,
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
