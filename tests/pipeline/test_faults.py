"""A stage that fails, dies or never comes ends the others, with its name and error."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from modum.box import Box
from modum.errors import DeadlineError, MismatchError, StageError
from modum.pipeline import Pipeline
from modum.rules import Elastic
from tests.jobs import job_of
from tests.pipeline.support import DenseStage, network, run_workers
from tests.pipeline.test_schedule import inputs, labels

BATCHES = [np.arange(6)] * 8


class FailingStage(DenseStage):
    """Fails in the backward pass of its third batch."""

    def backward(self, number: int, gradients: Sequence[Any]) -> Any:
        if number == 2:
            raise ArithmeticError("the numbers have run out")
        return super().backward(number, gradients)


def call(worker: Callable[[], Any]) -> Any:
    return worker()


def train(stage: DenseStage, box: Box, *, timeout: float = 20.0) -> None:
    with Pipeline(job_of(box, stage.index, stage.stages), stage, timeout=timeout) as pipeline:
        for _ in pipeline.train(BATCHES, inputs=inputs, labels=labels):
            pass


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_all_stages_end_with_the_name_and_error_of_the_one_that_failed(
    failing: int, connect: Callable[[], Box]
) -> None:
    stages = [(FailingStage if index == failing else DenseStage)(index, network(3)) for index in range(3)]
    boxes = [connect() for _ in stages]
    outcomes = run_workers(train, stages, boxes)
    assert isinstance(outcomes.pop(failing), ArithmeticError)
    for outcome in outcomes:
        assert isinstance(outcome, StageError), outcome
        text = f"stage {failing} of 3 (rank {failing}, layers dense{failing}) failed: ArithmeticError: the numbers have"
        assert text in str(outcome)
    assert not [info.name for info in boxes[0].list() if "/cut/" in info.name]


def test_an_error_in_the_users_loop_is_told_too(connect: Callable[[], Box]) -> None:
    def faulty(box: Box) -> None:
        with Pipeline(job_of(box, 1, 2), DenseStage(1, network(2)), timeout=20) as pipeline:
            for step in pipeline.train(BATCHES, inputs=inputs, labels=labels):
                assert step.number < 3, "enough"

    stage, boxes = DenseStage(0, network(2)), [connect(), connect()]
    outcomes = run_workers(call, [lambda: train(stage, boxes[0]), lambda: faulty(boxes[1])])
    assert isinstance(outcomes[1], AssertionError)
    assert isinstance(outcomes[0], StageError)
    assert "stage 1 of 2 (rank 1, layers dense1) failed: AssertionError: enough" in str(outcomes[0])


def test_a_loop_that_is_left_early_ends_all(connect: Callable[[], Box]) -> None:
    def leaving(box: Box) -> None:
        with Pipeline(job_of(box, 1, 2), DenseStage(1, network(2)), timeout=20) as pipeline:
            next(pipeline.train(BATCHES, inputs=inputs, labels=labels))
            with pytest.raises(RuntimeError, match="evaluation: this pipeline has ended"):
                pipeline.evaluate(BATCHES, inputs=inputs, labels=labels)

    stage, boxes = DenseStage(0, network(2)), [connect(), connect()]
    outcomes = run_workers(call, [lambda: train(stage, boxes[0]), lambda: leaving(boxes[1])])
    assert isinstance(outcomes[1], RuntimeError)
    assert "HINT: give train() fewer batches" in str(outcomes[1])
    assert "its loop over train() was left before the end" in str(outcomes[0])


def test_a_stage_whose_connection_ends_is_missed_within_seconds(connect: Callable[[], Box]) -> None:
    def dying(box: Box) -> None:
        stage = DenseStage(2, network(3))
        pipeline = Pipeline(job_of(box, 2, 3), stage, timeout=60)
        steps = pipeline.train(BATCHES, inputs=inputs, labels=labels)
        next(steps)
        box.close()  # as its process would
        with pytest.raises(Exception, match=r"closed|given this client up|the connection has ended"):
            list(steps)

    stages, boxes = [DenseStage(index, network(3)) for index in range(2)], [connect() for _ in range(3)]
    outcomes = run_workers(
        call,
        [
            lambda: train(stages[0], boxes[0], timeout=60),
            lambda: train(stages[1], boxes[1], timeout=60),
            lambda: dying(boxes[2]),
        ],
        seconds=20,
    )
    assert outcomes[2] is None
    for outcome in outcomes[:2]:
        assert isinstance(outcome, StageError), outcome
        assert "stage 2 of 3 (rank 2): its process has ended" in str(outcome)


def test_a_stage_that_hangs_is_waited_for_until_the_deadline(connect: Callable[[], Box]) -> None:
    def hanging(box: Box) -> None:
        with Pipeline(job_of(box, 1, 2), DenseStage(1, network(2)), timeout=20) as pipeline:
            box.counter("waited").wait(1, 20)
            list(pipeline.train(BATCHES, inputs=inputs, labels=labels))

    def waiting(box: Box) -> None:
        try:
            train(DenseStage(0, network(2)), box, timeout=0.5)
        finally:
            box.counter("waited").add(1)

    boxes = [connect(), connect()]
    outcomes = run_workers(call, [lambda: waiting(boxes[0]), lambda: hanging(boxes[1])])
    assert isinstance(outcomes[0], DeadlineError)
    assert "stage 0 of 2 (rank 0, layers dense0): waiting for gradients of stage 1: nothing came in 0.5 s" in str(
        outcomes[0]
    )
    assert isinstance(outcomes[1], StageError)
    assert "stage 0 of 2 (rank 0, layers dense0) failed: DeadlineError" in str(outcomes[1])


def test_a_stage_that_never_comes_is_named(box: Box) -> None:
    with pytest.raises(
        DeadlineError, match=r"stage 0 of 3 .*not there: stage 1 of 3 \(rank 1\), stage 2 of 3 \(rank 2\)"
    ):
        Pipeline(job_of(box, 0, 3), DenseStage(0, network(3)), timeout=0.2)


@pytest.fixture
def alone(box: Box) -> Iterator[Pipeline]:
    with ExitStack() as stack:
        yield stack.enter_context(Pipeline(job_of(box, 0, 1), DenseStage(0, network(1))))


def test_a_place_that_is_taken_or_used_up_is_refused(
    alone: Pipeline, connect: Callable[[], Box], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modum.pipeline.liveness.CLAIM_SECONDS", 0.1)
    with pytest.raises(MismatchError, match=r"another worker has this stage already (?s:.)*rank of its own"):
        Pipeline(job_of(connect(), 0, 1), DenseStage(0, network(1)))
    alone.close()
    with pytest.raises(MismatchError, match=r"pipeline 'pipeline/0' was used before(?s:.)*name="):
        Pipeline(job_of(connect(), 0, 1), DenseStage(0, network(1)))


def test_other_settings_than_the_first_workers_are_refused(alone: Pipeline, connect: Callable[[], Box]) -> None:
    with pytest.raises(MismatchError, match="micro_batches: shared 1, here 2"):
        Pipeline(job_of(connect(), 0, 1), DenseStage(0, network(1)), mode="synchronous", micro_batches=2)
    stage = DenseStage(0, network(1))
    stage.framework = "torch"
    with pytest.raises(MismatchError, match="framework: shared numpy, here torch"):
        Pipeline(job_of(connect(), 0, 1), stage)


def test_wrong_settings_are_refused(box: Box) -> None:
    stage: Any = DenseStage(1, network(2))
    with pytest.raises(ValueError, match="stage 1 of 2 does not belong on rank 0 of 2"):
        Pipeline(job_of(box, 0, 2), stage)
    with pytest.raises(ValueError, match=r"micro_batches \(4\) is for the synchronous mode"):
        Pipeline(job_of(box, 1, 2), stage, micro_batches=4)
    with pytest.raises(ValueError, match="mode"):
        Pipeline(job_of(box, 1, 2), stage, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ahead \(-1\)"):
        Pipeline(job_of(box, 1, 2), stage, ahead=-1)
    with pytest.raises(ValueError, match="timeout"):
        Pipeline(job_of(box, 1, 2), stage, timeout=0)


def test_batches_must_be_index_arrays_and_some(alone: Pipeline) -> None:
    with pytest.raises(ValueError, match=r"1-D array of at least one sample index, not of shape \(2, 3\)"):
        list(alone.train([np.zeros((2, 3))], inputs=inputs, labels=labels))


def test_weights_that_cannot_be_shared_are_refused(connect: Callable[[], Box]) -> None:
    class Double(DenseStage):
        def __init__(self) -> None:
            super().__init__(0, network(1))
            self.W = self.W.astype(np.float64)

    with pytest.raises(ValueError, match="dense0/W is float64: several pipelines share float32 weights only"):
        Pipeline(job_of(connect(), 1, 2), Double(), rule=Elastic())
