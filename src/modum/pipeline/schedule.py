"""The passes of one stage: forward and backward passes alternate (1F1B), as fast as the other stages allow."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from modum.errors import ProtocolError
from modum.pipeline.microbatch import MicroBatch, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from modum.pipeline.channel import Array, Inbox, Message
    from modum.pipeline.neighbours import Neighbours
    from modum.pipeline.stage import Stage

__all__ = ["Mode", "Schedule"]

Mode = Literal["asynchronous", "synchronous"]
"""Whether a stage updates its weights after every backward pass, or all stages after every batch."""
_END: Final = {"end": True}


class Schedule:
    """Trains and evaluates one stage, micro-batch by micro-batch.

    Args:
        stage: the stage to compute.
        neighbours: channels for activations and gradients.
        place: name of this worker in errors.
        mode: see `Pipeline`.
        micro_batches: parts of a batch, cut on the first stage.
        depth: micro-batches that may be between their forward and their backward pass.

    Attributes:
        updates: updates of the weights so far.
        number: micro-batches begun so far.
        most_versions: most versions of the weights at one time.
        computed: seconds in the stage: forward, backward and update.
        waited: seconds spent waiting for activations, gradients and batches.
    """

    def __init__(
        self, stage: Stage, neighbours: Neighbours, *, place: str, mode: Mode, micro_batches: int, depth: int
    ) -> None:
        self._stage = stage
        self._neighbours = neighbours
        self._place = place
        self._mode = mode
        self._micro_batches = micro_batches
        self._depth = depth
        self.updates = self.number = self.most_versions = 0
        self.computed = self.waited = 0.0

    def train(
        self, batches: Iterable[Any], inputs: Callable[[Array], Any], labels: Callable[[Array], Any]
    ) -> Iterator[list[MicroBatch]]:
        """Train on batches of sample indices.

        Args:
            batches: 1-D index arrays; iterated on the first stage.
            inputs: returns the model's inputs for an index array; called on the first stage.
            labels: returns the labels for an index array; called on the last stage.

        Yields:
            The micro-batches of a batch, after the update with them.

        Raises:
            ProtocolError: a neighbour sent something unexpected.
            ModumError: waiting for a neighbour failed.
        """
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
                self._timed(self._stage.update)
                self.updates += 1
                held = False
                yield batch
                batch = []

    def evaluate(
        self, batches: Iterable[Any], inputs: Callable[[Array], Any], labels: Callable[[Array], Any]
    ) -> dict[str, float]:
        """Evaluate batches of sample indices without training.

        Args:
            batches: as in `train`.
            inputs: as in `train`.
            labels: as in `train`.

        Returns:
            Loss and metrics as means over samples, by name; the same on all stages.

        Raises:
            ValueError: there was no batch.
            ModumError: as in `train`.
        """
        stage, neighbours = self._stage, self._neighbours
        sums: Array = np.zeros(1)
        samples = 0
        source = self._source(batches)
        while True:
            micro, arrays = self._next(source)
            if micro is None:
                break
            given = inputs(micro.batch) if stage.first else arrays
            outputs = self._timed(stage.evaluate, given, labels(micro.batch) if stage.last else None)
            self.number += 1
            if neighbours.forward_out is not None:
                neighbours.forward_out.send(micro.note, [micro.batch, *outputs])
            else:
                sums = sums + outputs[0] * micro.batch.size
                samples += micro.batch.size
        if neighbours.backward_in is not None:
            neighbours.backward_in.ask()
            results: dict[str, float] = self._receive(neighbours.backward_in).note["results"]
        elif samples == 0:
            raise ValueError("evaluate: there was no batch")
        else:
            results = dict(zip(stage.results, (sums / samples).tolist(), strict=True))
        if neighbours.backward_out is not None:
            neighbours.backward_out.send({"results": results})
        return results

    def _next(self, source: Iterator[tuple[MicroBatch, Sequence[Array]]]) -> tuple[MicroBatch | None, Sequence[Array]]:
        """Return the next micro-batch and its arrays; at the end tell the stage after."""
        start = time.perf_counter()
        micro, arrays = next(source, (None, []))
        self.waited += time.perf_counter() - start
        if micro is None and self._neighbours.forward_out is not None:
            self._neighbours.forward_out.send(_END)
        return micro, arrays

    def _source(self, batches: Iterable[Any]) -> Iterator[tuple[MicroBatch, Sequence[Array]]]:
        """Yield the micro-batches: cut here on the first stage, and elsewhere as they arrive."""
        inbox = self._neighbours.forward_in
        if inbox is None:
            for batch in batches:
                progress = getattr(batches, "progress", math.nan)
                for micro in cut(np.asarray(batch), self._micro_batches, lambda: self.number, progress):
                    yield micro, []
            return
        inbox.ask()
        while True:
            message = inbox.receive()
            if message.note == _END:
                return
            inbox.ask()
            micro = MicroBatch(batch=message.arrays[0], **message.note)
            if micro.number != self.number:
                raise ProtocolError(f"{self._place}: micro-batch {micro.number} came where {self.number} was due")
            yield micro, message.arrays[1:]

    def _forward(
        self,
        micro: MicroBatch,
        arrays: Sequence[Array],
        inputs: Callable[[Array], Any],
        labels: Callable[[Array], Any],
    ) -> None:
        stage, neighbours = self._stage, self._neighbours
        given = inputs(micro.batch) if stage.first else arrays
        wanted = labels(micro.batch) if stage.last else None
        outputs = self._timed(stage.forward, micro.number, given, wanted, micro.weight)
        self.number += 1
        self.most_versions = max(self.most_versions, stage.versions)
        if neighbours.forward_out is None or neighbours.backward_in is None:
            micro.results = dict(zip(stage.results, outputs[0].tolist(), strict=True))
        else:
            neighbours.forward_out.send(micro.note, [micro.batch, *outputs])
            neighbours.backward_in.ask()

    def _backward(self, micro: MicroBatch) -> None:
        neighbours = self._neighbours
        gradients: Sequence[Array] = []
        if neighbours.backward_in is not None:
            message = self._receive(neighbours.backward_in)
            if message.note["number"] != micro.number:
                raise ProtocolError(
                    f"{self._place}: gradients of {message.note['number']} came where those of {micro.number} were due"
                )
            gradients, micro.results = message.arrays, message.note["results"]
        inputs = self._timed(self._stage.backward, micro.number, gradients)
        if neighbours.backward_out is not None:
            neighbours.backward_out.send({"number": micro.number, "results": micro.results}, inputs)

    def _receive(self, inbox: Inbox) -> Message:
        start = time.perf_counter()
        message = inbox.receive()
        self.waited += time.perf_counter() - start
        return message

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        value = call(*arguments)
        self.computed += time.perf_counter() - start
        return value
