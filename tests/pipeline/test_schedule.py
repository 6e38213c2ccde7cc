"""What the stages compute, and in which order: held against the published equations in one process."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from modum.box import Box
from modum.pipeline import Mode, Pipeline, Step
from modum.rules import Elastic
from tests.jobs import job_of
from tests.pipeline.support import DenseStage, Floats, network, run_workers, unless_raised

WIDTH = 5
BATCHES = [np.arange(start, start + 6) % 40 for start in range(0, 60, 6)]
DATA: Floats = np.random.default_rng(1).standard_normal((2, 40, WIDTH)).astype(np.float32)
LABELS: Floats = np.tanh(DATA[1])


def inputs(batch: Any) -> Any:
    return DATA[0][batch]


def labels(batch: Any) -> Any:
    return LABELS[batch]


def train(
    connect: Callable[[], Box],
    stages: Sequence[DenseStage],
    batches: Sequence[Any] = BATCHES,
    *,
    mode: Mode = "asynchronous",
    micro_batches: int = 1,
    ahead: int = 0,
) -> list[list[Step]]:
    def worker(stage: DenseStage, box: Box) -> list[Step]:
        job = job_of(box, stage.index, len(stages))
        with Pipeline(job, stage, mode=mode, micro_batches=micro_batches, ahead=ahead, timeout=20) as pipeline:
            return list(pipeline.train(batches, inputs=inputs, labels=labels))

    boxes = [connect() for _ in stages]
    return unless_raised(run_workers(worker, stages, boxes))


def gradients(weights: Sequence[Floats], batch: Any) -> tuple[float, list[Floats]]:
    """Loss and gradients of the unsplit network, in one piece and in float64."""
    values = [inputs(batch).astype(np.float64)]
    for W in weights:
        values.append(np.tanh(values[-1] @ W))
    error = values[-1] - labels(batch)
    delta = error / error.size
    found = []
    for W, x, y in reversed(list(zip(weights, values[:-1], values[1:], strict=True))):
        delta = delta * (1 - y**2)
        found.append((x.T @ delta).astype(np.float32))
        delta = delta @ W.T
    return float(np.square(error).mean() / 2), found[::-1]


def reference(start: Sequence[Floats], delays: Sequence[int], rate: float = 0.1) -> tuple[list[float], list[Floats]]:
    """w(t+1) = w(t) - rate * grad f(w_1(t - d_1), ..., w_n(t - d_n)): section 3.3 of the paper on PipeDream."""
    history = [list(start)]
    losses = []
    for t, batch in enumerate(BATCHES):
        seen = [history[max(0, t - delay)][stage] for stage, delay in enumerate(delays)]
        loss, found = gradients(seen, batch)
        losses.append(loss)
        history.append([W - np.float32(rate) * dW for W, dW in zip(history[-1], found, strict=True)])
    return losses, history[-1]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_asynchronous_stages_follow_the_published_equation(count: int, connect: Callable[[], Box]) -> None:
    start = network(count)
    stages = [DenseStage(index, start) for index in range(count)]
    steps = train(connect, stages)
    losses, final = reference(start, delays=[count - 1 - index for index in range(count)])
    for stage, own in zip(stages, steps, strict=True):
        np.testing.assert_allclose(stage.W, final[stage.index], rtol=0, atol=2e-6)
        np.testing.assert_allclose([step.loss for step in own], losses, rtol=1e-5)
        assert [(step.number, step.samples) for step in own] == [(number, 6) for number in range(len(BATCHES))]
    assert steps[0][3].metrics.keys() == {"error"}


def test_with_a_batch_ahead_on_every_cut_gradients_are_twice_as_stale(connect: Callable[[], Box]) -> None:
    stages = [DenseStage(index, network(3)) for index in range(3)]
    train(connect, stages, ahead=1)
    _, final = reference(network(3), delays=[4, 2, 0])
    for stage in stages:
        np.testing.assert_allclose(stage.W, final[stage.index], rtol=0, atol=2e-6)
    assert stages[1].order[:7] == ["F0", "F1", "F2", "B0", "U", "F3", "B1"]
    assert stages[2].order[:6] == ["F0", "B0", "U", "F1", "B1", "U"]


@pytest.mark.parametrize(("count", "micro_batches"), [(2, 1), (3, 4)])
def test_synchronous_stages_compute_what_the_unsplit_network_does(
    count: int, micro_batches: int, connect: Callable[[], Box]
) -> None:
    start = network(count)
    stages = [DenseStage(index, start) for index in range(count)]
    steps = train(connect, stages, mode="synchronous", micro_batches=micro_batches)
    losses, final = reference(start, delays=[0] * count)
    for stage, own in zip(stages, steps, strict=True):
        np.testing.assert_allclose(stage.W, final[stage.index], rtol=0, atol=2e-6)
        np.testing.assert_allclose([step.loss for step in own], losses, rtol=1e-5)


def test_one_forward_and_one_backward_alternate_in_each_stage(connect: Callable[[], Box]) -> None:
    stages = [DenseStage(index, network(3)) for index in range(3)]
    train(connect, stages, BATCHES[:4])
    orders = [" ".join(stage.order) for stage in stages]
    assert orders == [
        "F0 F1 F2 B0 U F3 B1 U B2 U B3 U",
        "F0 F1 B0 U F2 B1 U F3 B2 U B3 U",
        "F0 B0 U F1 B1 U F2 B2 U F3 B3 U",
    ]


def test_a_flush_ends_every_batch_of_a_synchronous_pipeline(connect: Callable[[], Box]) -> None:
    stages = [DenseStage(index, network(2)) for index in range(2)]
    train(connect, stages, BATCHES[:2], mode="synchronous", micro_batches=3)
    assert " ".join(stages[0].order) == "F0 F1 B0 F2 B1 B2 U F3 F4 B3 F5 B4 B5 U"
    assert " ".join(stages[1].order) == "F0 B0 F1 B1 F2 B2 U F3 B3 F4 B4 F5 B5 U"


def test_a_stage_keeps_as_many_versions_as_there_are_stages_from_it_on(connect: Callable[[], Box]) -> None:
    def worker(stage: DenseStage, box: Box) -> int:
        with Pipeline(job_of(box, stage.index, 4), stage) as pipeline:
            for _ in pipeline.train(BATCHES, inputs=inputs, labels=labels):
                pass
            statistics = pipeline.statistics()
            assert (statistics.updates, statistics.micro_batches) == (len(BATCHES), len(BATCHES))
            assert stage.kept == {}
            return statistics.versions

    stages = [DenseStage(index, network(4)) for index in range(4)]
    boxes = [connect() for _ in stages]
    versions = unless_raised(run_workers(worker, stages, boxes))
    assert versions == [4, 3, 2, 1]


def test_training_evaluating_and_gathering_take_turns(connect: Callable[[], Box]) -> None:
    start = network(2)

    def worker(rank: int, box: Box) -> tuple[dict[str, float], dict[str, float], Any]:
        with Pipeline(job_of(box, rank, 2), DenseStage(rank, start), mode="synchronous", micro_batches=2) as pipeline:
            before = pipeline.evaluate([np.arange(25), np.arange(25, 40)], inputs=inputs, labels=labels)
            samples = pipeline.indices(size=40, batch_size=8, epochs=3)
            steps = list(pipeline.train(samples, inputs=inputs, labels=labels))
            assert sum(step.samples for step in steps) == 120
            assert [step.progress for step in steps] == [0.0] * 5 + [1 / 3] * 5 + [2 / 3] * 5
            assert list(pipeline.train([], inputs=inputs, labels=labels)) == []
            after = pipeline.evaluate([np.arange(40)], inputs=inputs, labels=labels)
            pipeline.finish()
            return before, after, pipeline.model()

    boxes = [connect(), connect()]
    (before, after, model), other = unless_raised(run_workers(worker, range(len(boxes)), boxes))
    assert other == (before, after, None)
    everything = np.arange(40)
    assert before["loss"] == pytest.approx(gradients(start, everything)[0], rel=1e-5)
    assert after["loss"] == pytest.approx(gradients([model["dense0/W"], model["dense1/W"]], everything)[0], rel=1e-5)
    assert after["loss"] < before["loss"]


def test_two_pipelines_share_the_weights_of_each_stage(connect: Callable[[], Box]) -> None:
    start = network(2)
    turns = [threading.Event() for _ in range(2)]

    def worker(rank: int, box: Box) -> Any:
        stage = DenseStage(rank % 2, start if rank < 2 else network(2, seed=9))
        rule = Elastic(moving_rate=0.5, interval=4, overlap=False)
        if rank >= 2:  # its weights are not the first ones, so it must not come first
            assert turns[stage.index].wait(20)
        with Pipeline(job_of(box, rank, 4), stage, rule=rule) as pipeline:
            assert np.array_equal(stage.W, start[stage.index])
            turns[stage.index].set()
            samples = pipeline.indices(size=40, batch_size=4, epochs=4, block=4)
            done = sum(step.samples for step in pipeline.train(samples, inputs=inputs, labels=labels))
            pipeline.finish()
            averaging = pipeline.statistics().averaging
            assert averaging is not None
            assert averaging.exchanges >= 1
            return done, stage.W, pipeline.evaluate([np.arange(40)], inputs=inputs, labels=labels)["loss"]

    boxes = [connect() for _ in range(4)]
    outcomes = unless_raised(run_workers(worker, range(len(boxes)), boxes))
    assert outcomes[0][0] == outcomes[1][0]
    assert outcomes[0][0] + outcomes[2][0] == 160
    for stage in range(2):
        assert np.array_equal(outcomes[stage][1], outcomes[stage + 2][1])
    assert outcomes[0][2] == outcomes[3][2] < gradients(start, np.arange(40))[0]
