"""One stage's part in a pipeline: its channels, its schedule, and what all stages do together."""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np

from modum.coordination.consistency import open_or_create
from modum.errors import BufferNotFoundError, ModumError, ProtocolError
from modum.groups import Alone
from modum.pipeline.channel import Inbox, Outbox, Reader, Writer
from modum.pipeline.data import SharedData, loader
from modum.pipeline.data_parallel import share_stage
from modum.pipeline.microbatch import MicroBatch, cut
from modum.pipeline.presence import Presence
from modum.pipeline.statistics import PipelineStatistics, Step
from modum.pipeline.weights import all_weights, send_weights
from modum.rules import Elastic
from modum.samples import SamplePools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from modum.averaging import Worker
    from modum.job import Job
    from modum.pipeline.channel import Array, Message
    from modum.pipeline.stage import Stage
    from modum.rules import UpdateRule
    from modum.samples import SharedSamples

__all__ = ["Mode", "Pipeline"]

Mode = Literal["asynchronous", "synchronous"]
_END: Final = {"end": True}


class Pipeline:
    """Trains a model that is cut into stages, one stage a worker; every worker makes one and calls the same methods.

        with Pipeline(job, stage) as pipeline:
            for step in pipeline.train(pipeline.share(x, y, batch_size=64, epochs=3)):
                scheduler.step()
            print(pipeline.evaluate(batches, inputs=..., labels=...))

    Rank r of the job is stage ``r % stages`` of pipeline (replica) ``r // stages``. Activations go forward and
    gradients back through channels of the box; each stage alternates one forward and one backward pass (1F1B).

    job
        From `modum.connect`.
    stage
        What this worker computes: from `modum.torch.partition` or `modum.keras.partition`, or one of your own.
    mode
        ``"asynchronous"``: a stage updates its weights after every backward pass, and nobody waits for a flush. The
        gradients of stage s of S are those of weights S - 1 - s updates old, the same for forward and backward pass of
        a batch (PipeDream: Narayanan et al., SOSP 2019, section 3.3). ``"synchronous"``: a batch is cut into
        ``micro_batches``, whose gradients are averaged for one update, and the next batch begins after it (the flush of
        GPipe: Huang et al., NeurIPS 2019). The same steps as the unsplit model, to rounding, if the loss is a mean over
        samples and no layer looks at the whole batch.
    micro_batches
        Parts of a batch; 1 in the asynchronous mode, where it must be left alone. About 4 times the stages keep the
        synchronous mode's workers busy.
    ahead
        Batches more that may be on the wire of each cut. 0 is PipeDream's schedule, which keeps all stages busy while
        what they send arrives in no time. Where `PipelineStatistics.waited_seconds` is large beside ``compute_seconds``
        on every stage, 1 hides the time on the wire; it doubles the staleness, and so the versions of the weights.
    rule
        How the same stages of several pipelines share their weights; `Elastic()` by default, unused with one pipeline.
    name
        Of the pipeline in the box; must be new there.
    timeout
        Seconds that this worker waits for another one, before it gives up with an error. One that died is found out
        within a few seconds, whatever this says.

    Raises:
        ValueError: the settings do not fit each other, or the job.
        MismatchError: another worker has other settings, or this one's place, or the name is used up.
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
        timeout: float = 300.0,
    ) -> None:
        _check(stage, job, mode, micro_batches, ahead, timeout)
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
        self._depth = stage.stages - stage.index + ahead * (stage.stages - 1 - stage.index)
        self._updates = self._number = self._most_versions = 0
        self._computed = self._waited = 0.0
        self._pools = SamplePools(job, name, Alone())
        self._stopped = self._left = False
        self._worker: Worker | None = None
        places = [self._place(index) for index in range(stage.stages)]
        self._presence = Presence(job.box, self._prefix, places, stage.index, timeout)
        with ExitStack() as stack:
            stack.callback(self._presence.abandon)
            try:
                self._agree()
            except ModumError as error:
                self._presence.fail(error)
                raise
            self._presence.join()
            self._stack = stack.pop_all()
        with self._together("start"):
            self._open(rule, timeout)

    # ---- what users call

    @property
    def place(self) -> str:
        """What this worker is called in errors."""
        return self._presence.place

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
            x: the model's inputs: an array or tensor with the samples in its first axis, a tuple, list or dict of such,
                or a function that takes a 1-D int64 array of indices and returns those of that batch.
            y: what the loss wants, likewise.
            batch_size: samples in a batch.
            epochs: how often each sample is handed out.
            size: samples; needed if `x` and `y` are functions.
            **options: `block`, `seed` and `timeout` of `SharedSamples`.

        Raises:
            ValueError: the size is missing, or arrays are not equally long.
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
        """Train on batches of sample indices; yields after every update of this stage.

        Iterate to the end: what the loop's body does (a learning rate schedule, say) happens between this stage's
        updates, after the same number of them on every stage.

        Args:
            batches: from `share`; or other 1-D index arrays. Iterated on the first stage, to which the others leave the
                choice.
            inputs: called on the first stage: the model's inputs for an index array; what `share` made has its own.
            labels: called on the last stage: what the loss wants for it; likewise.

        Raises:
            StageError: another stage failed or died; the message has its name and error.
            DeadlineError: nothing came from a neighbour within the timeout.
            RuntimeError: an earlier loop was left before its end.
        """
        with self._together("training"):
            yield from self._train(batches, *_loaders(batches, inputs, labels))

    def evaluate(
        self,
        batches: Iterable[Any],
        *,
        inputs: Callable[[Array], Any] | None = None,
        labels: Callable[[Array], Any] | None = None,
    ) -> dict[str, float]:
        """Loss and metrics as means over samples, without training; all stages of the pipeline call it and get them.

        Arguments and errors are those of `train`.
        """
        with self._together("evaluation"):
            return self._evaluate(batches, *_loaders(batches, inputs, labels))

    def finish(self, timeout: float = 600.0) -> None:
        """With several pipelines: do a last exchange, wait until all have, and take the shared weights.

        Call it once, after training and before `model`. With one pipeline it does nothing but report.

        Raises:
            DeadlineError: other pipelines were still training after ``timeout`` seconds.
        """
        with self._together("finish"):
            if self._worker is not None:
                self._worker.finish(timeout)
                self._worker.pull()
            self._job.flush()

    def model(self) -> Any:
        """The whole model, gathered from all stages, on the first stage; None on the others.

        What it is depends on the front end: a state dict for PyTorch, a model for Keras. All stages of the pipeline
        call it; the first one needs memory for the whole model meanwhile.
        """
        with self._together("gathering the weights"):
            return self._gather()

    def statistics(self) -> PipelineStatistics:
        """What this worker has done so far."""
        outboxes = [outbox for outbox in (self._forward_out, self._backward_out) if outbox is not None]
        return PipelineStatistics(
            updates=self._updates,
            micro_batches=self._number,
            compute_seconds=self._computed,
            waited_seconds=self._waited,
            sent_bytes=sum(outbox.nbytes for outbox in outboxes),
            versions=self._most_versions,
            averaging=None if self._worker is None else self._worker.statistics(),
        )

    def close(self, error: BaseException | None = None) -> None:
        """Leave the pipeline; with an ``error``, the other stages end with it too. Closing twice does nothing.

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
                for outbox in (self._forward_out, self._backward_out):
                    if outbox is not None:
                        outbox.drain()
                self._presence.leave()
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
        open_or_create(self._job.box, f"{self._name}/settings", 1, "int64", {"pipeline": settings}).close()

    def _open(self, rule: UpdateRule | None, timeout: float) -> None:
        stage, box, presence, stack = self.stage, self._job.box, self._presence, self._stack
        # more are never under way while training, so that sending never waits there
        bound = self._depth + 1 + self._ahead

        def outbox(cut: int, direction: str, receiver: int) -> Outbox:
            wait = presence.waiting(f"sending {direction} to stage {receiver}")
            made = Outbox(Writer(box, f"{self._prefix}/cut/{cut}/{direction}", slots=bound, wait=wait), bound)
            stack.callback(made.close)
            return made

        def inbox(cut: int, direction: str, sender: int) -> Inbox:
            wait = presence.waiting(f"waiting for {direction} of stage {sender}")
            made = Inbox(Reader(box, f"{self._prefix}/cut/{cut}/{direction}", wait=wait))
            stack.callback(made.close)
            return made

        index = stage.index
        self._forward_in = None if stage.first else inbox(index, "activations", index - 1)
        self._backward_out = None if stage.first else outbox(index, "gradients", index - 1)
        self._forward_out = None if stage.last else outbox(index + 1, "activations", index + 1)
        self._backward_in = None if stage.last else inbox(index + 1, "gradients", index + 1)
        if self.replicas > 1:
            self._worker = share_stage(self._job, stage, rule or Elastic(), self._name, timeout)
            if self._worker is not None:
                stack.callback(self._worker.close)

    @contextmanager
    def _together(self, phase: str) -> Iterator[None]:
        """All stages do something; if it fails here, they are told, and this worker can do nothing more."""
        if self._stopped or self._left:
            raise RuntimeError(f"{self.place}: {phase}: this pipeline has ended, or a loop over train() was left early")
        try:
            yield
        except GeneratorExit:
            self._left = True  # an error in the loop's body comes to `close`, and says more
            raise
        except BufferNotFoundError as error:
            self._fail(error)
            self._presence.check()  # whoever deleted it has failed, and said why
            raise
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        if not self._stopped:
            self._stopped = True
            with suppress(ModumError), ExitStack() as stack:  # in reverse order, whatever fails
                stack.callback(self._stack.close)
                stack.callback(self._presence.abandon)
                stack.callback(self._presence.fail, error)
                self._presence.stop()

    # ---- training

    def _train(
        self, batches: Iterable[Any], inputs: Callable[[Array], Any], labels: Callable[[Array], Any]
    ) -> Iterator[Step]:
        source = self._source(batches)
        in_flight: deque[MicroBatch] = deque()
        ended = held = False
        batch: list[MicroBatch] = []
        while True:
            while not ended and not held and len(in_flight) < self._depth:
                micro, arrays = self._next(source)
                if micro is None:
                    ended = True
                else:
                    self._forward(micro, arrays, inputs, labels)
                    in_flight.append(micro)
                    held = micro.last and self._mode == "synchronous"
            if not in_flight:
                return
            micro = in_flight.popleft()
            self._backward(micro)
            batch.append(micro)
            if micro.last:
                self._timed(self.stage.update)
                self._updates += 1
                held = False
                if self._worker is not None:
                    self._worker.stepped()
                yield self._step(batch)
                batch = []

    def _next(self, source: Iterator[tuple[MicroBatch, Sequence[Array]]]) -> tuple[MicroBatch | None, Sequence[Array]]:
        """The next micro-batch and what comes with it; at the end the stage behind is told."""
        start = time.perf_counter()
        micro, arrays = next(source, (None, []))
        self._waited += time.perf_counter() - start
        if micro is None and self._forward_out is not None:
            self._forward_out.send(_END)
        return micro, arrays

    def _source(self, batches: Iterable[Any]) -> Iterator[tuple[MicroBatch, Sequence[Array]]]:
        """The micro-batches: cut here on the first stage, and elsewhere as they arrive."""
        if self._forward_in is None:
            for batch in batches:
                progress = getattr(batches, "progress", math.nan)
                for micro in cut(np.asarray(batch), self._micro_batches, lambda: self._number, progress):
                    yield micro, []
            return
        self._forward_in.ask()
        while True:
            message = self._forward_in.receive()
            if message.note == _END:
                return
            self._forward_in.ask()
            micro = MicroBatch(batch=message.arrays[0], **message.note)
            if micro.number != self._number:
                raise ProtocolError(f"{self.place}: micro-batch {micro.number} came where {self._number} was due")
            yield micro, message.arrays[1:]

    def _forward(
        self,
        micro: MicroBatch,
        arrays: Sequence[Array],
        inputs: Callable[[Array], Any],
        labels: Callable[[Array], Any],
    ) -> None:
        stage = self.stage
        given = inputs(micro.batch) if stage.first else arrays
        wanted = labels(micro.batch) if stage.last else None
        outputs = self._timed(stage.forward, micro.number, given, wanted, micro.weight)
        self._number += 1
        self._most_versions = max(self._most_versions, stage.versions)
        if self._forward_out is None or self._backward_in is None:
            micro.results = dict(zip(stage.results, outputs[0].tolist(), strict=True))
        else:
            self._forward_out.send(micro.note, [micro.batch, *outputs])
            self._backward_in.ask()

    def _backward(self, micro: MicroBatch) -> None:
        gradients: Sequence[Array] = []
        if self._backward_in is not None:
            message = self._receive(self._backward_in)
            if message.note["number"] != micro.number:
                raise ProtocolError(
                    f"{self.place}: gradients of {message.note['number']} came where those of {micro.number} were due"
                )
            gradients, micro.results = message.arrays, message.note["results"]
        inputs = self._timed(self.stage.backward, micro.number, gradients)
        if self._backward_out is not None:
            self._backward_out.send({"number": micro.number, "results": micro.results}, inputs)

    def _step(self, batch: Sequence[MicroBatch]) -> Step:
        """The batch's results from those of its micro-batches, and a report of them."""
        means: dict[str, float] = {}
        for micro in batch:
            for name, value in (micro.results or {}).items():
                means[name] = means.get(name, 0.0) + micro.weight * value
        samples = sum(micro.batch.size for micro in batch)
        loss = means.pop("loss")
        if self.stage.first:
            self._job.report(samples=samples, steps=1, total=self._pools.total or None, loss=loss)
        return Step(number=self._updates - 1, samples=samples, loss=loss, metrics=means, progress=batch[0].progress)

    # ---- evaluation and gathering

    def _evaluate(
        self, batches: Iterable[Any], inputs: Callable[[Array], Any], labels: Callable[[Array], Any]
    ) -> dict[str, float]:
        stage = self.stage
        sums: Array = np.zeros(1)
        samples = 0
        source = self._source(batches)
        while True:
            micro, arrays = self._next(source)
            if micro is None:
                break
            given = inputs(micro.batch) if stage.first else arrays
            outputs = self._timed(stage.evaluate, given, labels(micro.batch) if stage.last else None)
            self._number += 1
            if self._forward_out is not None:
                self._forward_out.send(micro.note, [micro.batch, *outputs])
            else:
                sums = sums + outputs[0] * micro.batch.size
                samples += micro.batch.size
        if self._backward_in is not None:
            self._backward_in.ask()
            results: dict[str, float] = self._receive(self._backward_in).note["results"]
        elif samples == 0:
            raise ValueError("evaluate: there was no batch")
        else:
            results = dict(zip(stage.results, (sums / samples).tolist(), strict=True))
        if self._backward_out is not None:
            self._backward_out.send({"results": results})
        return results

    def _gather(self) -> Any:
        if not self.stage.first:
            send_weights(self.stage, self._job.box, self._prefix, self._presence)
            return None
        return self.stage.assemble(all_weights(self.stage, self._job.box, self._prefix, self._presence))

    # ---- inside

    def _receive(self, inbox: Inbox) -> Message:
        start = time.perf_counter()
        message = inbox.receive()
        self._waited += time.perf_counter() - start
        return message

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        value = call(*arguments)
        self._computed += time.perf_counter() - start
        return value


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
    """Return what loads inputs and labels: as given, or as the batches know it themselves."""
    if isinstance(batches, SharedData):
        return inputs or batches.inputs, labels or batches.labels
    if inputs is None or labels is None:
        raise ValueError("batches of plain indices need inputs=... and labels=...: what loads them")
    return inputs, labels


def _range(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} .. {layers[-1]}"
