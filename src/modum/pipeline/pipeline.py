"""One stage's part in a pipeline: its channels, its schedule, and what all stages do together."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from modum.coordination.consistency import agree
from modum.errors import BufferNotFoundError, ModumError
from modum.groups import Alone
from modum.pipeline.data import SharedData, loader
from modum.pipeline.data_parallel import share_stage
from modum.pipeline.liveness import StageRoster
from modum.pipeline.neighbours import Neighbours
from modum.pipeline.schedule import Mode, Schedule
from modum.pipeline.statistics import PipelineStatistics, Step
from modum.pipeline.weights import all_weights, send_weights
from modum.rules import Elastic
from modum.samples import SamplePools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from modum.averaging import Worker
    from modum.job import Job
    from modum.pipeline.channel import Array
    from modum.pipeline.microbatch import MicroBatch
    from modum.pipeline.stage import Stage
    from modum.rules import Auto, UpdateRule
    from modum.samples import SharedSamples

__all__ = ["Mode", "Pipeline"]


class Pipeline:
    """Trains a model that is cut into stages, one per worker; every worker makes one and calls the same methods.

        with Pipeline(job, stage) as pipeline:
            for step in pipeline.train(pipeline.share(x, y, batch_size=64, epochs=3)):
                scheduler.step()
            print(pipeline.evaluate(batches, inputs=..., labels=...))

    Rank r of the job computes stage `r % stages` of pipeline (replica) `r // stages`. Activations go forward and
    gradients back through channels of the box; each stage alternates one forward and one backward pass (1F1B).

    In the `"asynchronous"` mode a stage updates its weights after every backward pass, and no stage waits for a flush.
    The gradients of stage s of S are those of weights S - 1 - s updates old, the same for forward and backward pass of
    a batch (PipeDream: Narayanan et al., SOSP 2019, section 3.3). In the `"synchronous"` mode a batch is cut into
    `micro_batches`, whose gradients are averaged for one update, and the next batch begins after it (the flush of
    GPipe: Huang et al., NeurIPS 2019): the same steps as the unsplit model, up to rounding, if the loss is a mean over
    samples and no layer looks at the whole batch.

    Args:
        job: from `modum.connect`.
        stage: this worker's stage: from `modum.torch.partition` or `modum.keras.partition`, or one of your own.
        mode: `"asynchronous"` or `"synchronous"`.
        micro_batches: parts of a batch; must be 1 in the asynchronous mode. About 4 times the
            stages keep the synchronous mode's workers busy.
        ahead: additional batches that may be on the wire of each cut. 0 is PipeDream's schedule, which keeps all stages
            busy if transfers take no time. Where `PipelineStatistics.waited_seconds` is large beside
            `compute_seconds` on every stage, 1 hides the transfers; it doubles the staleness, and so the
            versions of the weights.
        rule: how the same stages of several pipelines share their weights; `Elastic()` by default, unused with one
            pipeline.
        name: name of the pipeline in the box; must be new there.
        timeout: seconds that this worker waits for another one before it raises; None: as `Job.timeouts` say. A dead
            worker is noticed within a few seconds in any case.

    Raises:
        ValueError: the settings do not fit each other, or the job.
        MismatchError: another worker has other settings, or this one's place, or the name was used before.
        DeadlineError: the other stages did not come within the timeout.
    """

    def __init__(
        self,
        job: Job,
        stage: Stage,
        *,
        mode: Mode = "asynchronous",
        micro_batches: int = 1,
        ahead: int = 0,
        rule: UpdateRule | None = None,
        name: str = "pipeline",
        timeout: float | None = None,
    ) -> None:
        timeout = job.timeouts.step if timeout is None else timeout
        _check(stage, job, mode, micro_batches, ahead, timeout)
        job.checkpoints.refuse("a pipeline")
        self.stage = stage
        stage.stash = mode == "asynchronous"
        self.replica = job.rank // stage.stages
        """Number of this pipeline, from 0."""
        self.replicas = job.world_size // stage.stages
        """How many pipelines train the model."""
        self._job = job
        self._mode = mode
        self._micro_batches = micro_batches
        self._name = name
        self._prefix = f"{name}/{self.replica}"
        self._ahead = ahead
        depth = stage.stages - stage.index + ahead * (stage.stages - 1 - stage.index)
        self._pools = SamplePools(job, name, Alone())
        self._stopped = self._left = False
        self._worker: Worker | None = None
        places = [self._place(index) for index in range(stage.stages)]
        self._roster = StageRoster(job.box, self._prefix, places, stage.index, timeout)
        with ExitStack() as stack:
            try:
                self._agree()
            except ModumError as error:
                self._roster.fail(error)
                raise
            self._member = self._roster.join()
            stack.callback(self._member.leave)
            self._stack = stack.pop_all()
        with self._together("start"):
            # no more are ever under way while training, so sending never waits
            self._neighbours = Neighbours(
                job.box, self._prefix, stage, bound=depth + 1 + ahead, waiting=self._roster.waiting
            )
            self._stack.callback(self._neighbours.close)
            self._schedule = Schedule(
                stage, self._neighbours, place=self.place, mode=mode, micro_batches=micro_batches, depth=depth
            )
            if self.replicas > 1:
                self._worker = share_stage(job, stage, rule or Elastic(), name, timeout)
                if self._worker is not None:
                    self._stack.callback(self._worker.close)

    # ---- what users call

    @property
    def place(self) -> str:
        """Name of this worker in errors."""
        return self._roster.place

    def share(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int,
        epochs: int = 1,
        size: int | None = None,
        **options: Any,
    ) -> SharedData:
        """Return data for `train`, drawn from one pool by all pipelines, batch by batch.

        Every worker calls it and gives it to `train`; only the first stage of each pipeline draws from it.

        Args:
            x: the model's inputs: an array or tensor with the samples along the first axis, a tuple, list or dict of
                such, or a function that takes a 1-D int64 array of indices and returns those of that batch.
            y: the labels for the loss, in the same forms as `x`.
            batch_size: samples in a batch.
            epochs: how many times each sample is handed out.
            size: number of samples; needed if `x` and `y` are functions.
            **options: `block`, `seed` and `timeout` of `SharedSamples`.

        Returns:
            The batches, for one call of `train`.

        Raises:
            ValueError: the size is missing, or arrays differ in length.
        """
        inputs, first = loader(x)
        labels, second = loader(y)
        sizes = {number for number in (size, first, second) if number is not None}
        if len(sizes) != 1:
            known = " and ".join(map(str, sorted(sizes))) or "nothing"
            raise ValueError(f"the number of samples must be one, and size, x and y say {known}: give size=...")
        return SharedData(
            self.indices(size=sizes.pop(), batch_size=batch_size, epochs=epochs, **options), inputs, labels
        )

    def indices(self, *, size: int, batch_size: int, epochs: int = 1, **options: Any) -> SharedSamples:
        """Return batches of sample indices, drawn from one pool by all pipelines; see `SharedSamples`.

        Give it to `train` on every worker; only the first stage of each pipeline draws from it.
        """
        return self._pools.pool(size=size, batch_size=batch_size, epochs=epochs, **options)

    def train(
        self,
        batches: Iterable[Any],
        *,
        inputs: Callable[[Array], Any] | None = None,
        labels: Callable[[Array], Any] | None = None,
    ) -> Iterator[Step]:
        """Train on batches of sample indices.

        Iterate to the end: the loop's body (a learning rate schedule, say) runs between this stage's
        updates, after the same number of them on every stage.

        Args:
            batches: from `share`; or other 1-D index arrays. Iterated on the first stage, whose choice the others
                follow.
            inputs: called on the first stage: returns the model's inputs for an index array; not needed with `share`.
            labels: called on the last stage: returns the labels for an index array; not needed with `share`.

        Yields:
            A `Step` after every update of this stage.

        Raises:
            StageError: another stage failed or died; the message has its name and error.
            DeadlineError: nothing came from a neighbour within the timeout.
            RuntimeError: an earlier loop was left before its end.
        """
        with self._together("training"):
            for batch in self._schedule.train(batches, *_loaders(batches, inputs, labels)):
                if self._worker is not None:
                    self._worker.stepped()
                yield self._step(batch)

    def evaluate(
        self,
        batches: Iterable[Any],
        *,
        inputs: Callable[[Array], Any] | None = None,
        labels: Callable[[Array], Any] | None = None,
    ) -> dict[str, float]:
        """Return loss and metrics without training; all stages of the pipeline call it, and all get them.

        Args:
            batches: as in `train`.
            inputs: as in `train`.
            labels: as in `train`.

        Returns:
            Means over the samples, by name.

        Raises:
            ValueError: there was no batch.
            StageError: another stage failed or died; the message has its name and error.
            DeadlineError: nothing came from a neighbour within the timeout.
            RuntimeError: an earlier loop over `train` was left before its end.
        """
        with self._together("evaluation"):
            return self._schedule.evaluate(batches, *_loaders(batches, inputs, labels))

    def finish(self, timeout: float | Auto = "auto") -> None:
        """Do a last exchange with the other pipelines, wait until all have done theirs, and take the shared weights.

        Call it once, after training and before `model`. With one pipeline it only reports.

        Args:
            timeout: seconds to wait for the other pipelines; "auto": as `Job.timeouts` say.

        Raises:
            DeadlineError: other pipelines were still training after `timeout` seconds.
        """
        with self._together("finish"):
            if self._worker is not None:
                self._worker.finish(timeout)
                self._worker.pull()
            self._job.flush()

    def model(self) -> Any:
        """Return the whole model, gathered from all stages, on the first stage; None on the others.

        Its form depends on the front end: a state dict for PyTorch, a model for Keras. All stages of the pipeline call
        it; the first one needs memory for the whole model meanwhile.
        """
        with self._together("gathering the weights"):
            return self._gather()

    def statistics(self) -> PipelineStatistics:
        """Return what this worker has done so far."""
        schedule = self._schedule
        return PipelineStatistics(
            updates=schedule.updates,
            micro_batches=schedule.number,
            compute_seconds=schedule.computed,
            waited_seconds=schedule.waited,
            sent_bytes=self._neighbours.sent_bytes,
            versions=schedule.most_versions,
            averaging=None if self._worker is None else self._worker.statistics(),
        )

    def close(self, error: BaseException | None = None) -> None:
        """Leave the pipeline. Closing twice does nothing.

        Args:
            error: why this worker stops early: the other stages stop with it.

        Raises:
            RuntimeError: a loop over `train` was left before its end, and the other stages cannot go on.
        """
        if error is not None:
            self._fail(error)
        if not self._stopped:
            if self._left:
                self._fail(RuntimeError("its loop over train() was left before the end"))
                raise RuntimeError(
                    f"{self.place}: the loop over train() was left before its end, and batches were under way\n"
                    "HINT: give train() fewer batches, and iterate to the end"
                )
            with self._together("end"):
                self._neighbours.drain()
                self._member.leave(done=True)
        self._stopped = True
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(error)

    # ---- start and end

    def _place(self, index: int) -> str:
        rank = self.replica * self.stage.stages + index
        which = f" of pipeline {self.replica}" if self.replicas > 1 else ""
        layers = f", layers {_range(self.stage.layers)}" if index == self.stage.index else ""
        return f"stage {index} of {self.stage.stages}{which} (rank {rank}{layers})"

    def _agree(self) -> None:
        settings = {
            "framework": self.stage.framework,
            "stages": self.stage.stages,
            "mode": self._mode,
            "micro_batches": self._micro_batches,
            "ahead": self._ahead,
        }
        agree(self._job.box, f"{self._name}/settings", {"pipeline": settings})

    @contextmanager
    def _together(self, phase: str) -> Iterator[None]:
        """Guard what all stages do together; if it fails here, tell the others, and stop this worker's part."""
        if self._stopped or self._left:
            raise RuntimeError(f"{self.place}: {phase}: this pipeline has ended, or a loop over train() was left early")
        try:
            yield
        except GeneratorExit:
            self._left = True  # an error in the loop's body reaches `close`, and says more
            raise
        except BufferNotFoundError as error:
            self._fail(error)
            self._roster.check()  # the stage that deleted it has failed, and said why
            raise
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        if not self._stopped:
            self._stopped = True
            with suppress(ModumError), ExitStack() as stack:  # in reverse order, even if one fails
                stack.callback(self._stack.close)
                stack.callback(self._member.leave)
                stack.callback(self._roster.fail, error)
                self._roster.stop()

    # ---- inside

    def _step(self, batch: Sequence[MicroBatch]) -> Step:
        """Combine a batch's results from those of its micro-batches, report them, and return them."""
        means: dict[str, float] = {}
        for micro in batch:
            for name, value in (micro.results or {}).items():
                means[name] = means.get(name, 0.0) + micro.weight * value
        samples = sum(micro.batch.size for micro in batch)
        loss = means.pop("loss")
        if self.stage.first:
            self._job.report(samples=samples, steps=1, total=self._pools.total or None, loss=loss)
        return Step(
            number=self._schedule.updates - 1, samples=samples, loss=loss, metrics=means, progress=batch[0].progress
        )

    def _gather(self) -> Any:
        if not self.stage.first:
            send_weights(self.stage, self._job.box, self._prefix, self._roster)
            return None
        return self.stage.assemble(all_weights(self.stage, self._job.box, self._prefix, self._roster))


def _check(stage: Stage, job: Job, mode: str, micro_batches: int, ahead: int, timeout: float) -> None:
    if mode not in ("asynchronous", "synchronous"):
        raise ValueError(f'mode ({mode!r}) must be "asynchronous" or "synchronous"')
    if micro_batches < 1:
        raise ValueError(f"micro_batches ({micro_batches}) must be at least 1")
    if mode == "asynchronous" and micro_batches > 1:
        raise ValueError(
            f"micro_batches ({micro_batches}) is for the synchronous mode: whole batches keep an asynchronous pipeline "
            "full. Use a smaller batch_size, or mode='synchronous'"
        )
    if ahead < 0:
        raise ValueError(f"ahead ({ahead}) must be at least 0")
    if timeout <= 0:
        raise ValueError(f"timeout ({timeout}) must be greater than 0 seconds")
    if job.world_size % stage.stages or job.rank % stage.stages != stage.index:
        raise ValueError(
            f"stage {stage.index} of {stage.stages} does not belong on rank {job.rank} of {job.world_size}: "
            "rank r is stage r modulo the stages, and the workers must be a multiple of them"
        )


def _loaders(
    batches: Iterable[Any], inputs: Callable[[Array], Any] | None, labels: Callable[[Array], Any] | None
) -> tuple[Callable[[Array], Any], Callable[[Array], Any]]:
    """Return the functions that load inputs and labels: as given, or the batches' own."""
    if isinstance(batches, SharedData):
        return inputs or batches.inputs, labels or batches.labels
    if inputs is None or labels is None:
        raise ValueError("batches of plain indices need inputs=... and labels=...: what loads them")
    return inputs, labels


def _range(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} .. {layers[-1]}"
