"""Several pipelines of one model: the workers of the same stage share its weights by an update rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modum.averaging import Averaging, Membership, join
from modum.groups import Alone
from modum.parameters import Vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modum.averaging import AveragingStatistics
    from modum.box import Box, Buffer
    from modum.pipeline.stage import Stage, Weight
    from modum.rules import UpdateRule

__all__ = ["Replicas", "StageVector"]


class StageVector(Vector):
    """The floating weights of a stage as one flat float32 vector, read and set through the stage."""

    dtype = "float32"
    offset = 0

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        shared = self._shared()
        for weight in shared:
            if weight.array.dtype != np.float32:
                raise ValueError(
                    f"{weight.name} is {weight.array.dtype}: several pipelines share float32 weights only; "
                    "convert the model, or train one pipeline"
                )
        self.size = sum(weight.array.size for weight in shared)
        self.trainable = sum(weight.array.size for weight in shared if weight.trainable)
        self.bounds = (0, self.size)
        self.staging: NDArray[np.float32] = np.zeros(self.size, np.float32)
        self._statistics_sent = np.zeros(self.size - self.trainable, np.float32)
        self._saved: NDArray[np.float32] | None = None

    @property
    def tensors(self) -> list[list[str]]:
        """Names and shapes, for the agreement between workers."""
        return [[weight.name, f"{weight.array.dtype} {weight.array.shape}"] for weight in self._shared()]

    def check(self) -> None:
        """The stage is asked for its weights each time: they cannot have moved."""

    def snapshot(self) -> None:
        self._load(self.staging)
        self._statistics_sent[:] = self.staging[self.trainable :]

    def arrived(self) -> None:
        """Host memory is there at once."""

    def subtract(self, rate: float) -> None:
        weights = np.empty(self.size, np.float32)
        self._load(weights)
        statistics = weights[self.trainable :]
        statistics += np.float32(rate) * (self._statistics_sent - statistics)
        weights -= self.staging
        self._store(weights)

    def read(self, buffer: Buffer) -> None:
        weights = np.empty(self.size, np.float32)
        buffer.read(weights)
        self._store(weights)

    def write(self, buffer: Buffer) -> None:
        weights = np.empty(self.size, np.float32)
        self._load(weights)
        buffer.write(weights)

    def align(self) -> None:
        """A group of one is always aligned."""

    def save(self) -> None:
        self._saved = np.empty(self.size, np.float32)
        self._load(self._saved)

    def restore(self) -> None:
        assert self._saved is not None, "nothing was saved"
        self._store(self._saved)
        self._saved = None

    def _shared(self) -> list[Weight]:
        """Trainable weights first."""
        floating = [weight for weight in self._stage.weights() if _is_floating(weight.array)]
        return sorted(floating, key=lambda weight: not weight.trainable)

    def _load(self, flat: NDArray[np.float32]) -> None:
        start = 0
        for weight in self._shared():
            flat[start : start + weight.array.size] = weight.array.reshape(-1)
            start += weight.array.size

    def _store(self, flat: NDArray[np.float32]) -> None:
        new: dict[str, NDArray[Any]] = {}
        start = 0
        for weight in self._shared():
            new[weight.name] = flat[start : start + weight.array.size].reshape(weight.array.shape)
            start += weight.array.size
        self._stage.assign(new)


class Replicas:
    """This worker's averaging with the same stage of the other pipelines."""

    def __init__(self, stage: Stage, box: Box, rule: UpdateRule, name: str, timeout: float) -> None:
        vector = StageVector(stage)
        self._averaging: Averaging | None = None
        if vector.size == 0:
            return  # layers without weights: nothing to share
        shared = f"{name}/shared/{stage.index}"
        meta = {"tensors": vector.tensors, "settings": rule.settings()}
        self._buffers = join(box, shared, [vector], meta, timeout)
        self._membership = Membership(box, shared, leader=True)
        self._averaging = Averaging(rule, [vector], self._buffers, Alone(), self._membership)
        self._averaging.pull()

    def step(self) -> None:
        """The stage has made an update."""
        if self._averaging is not None:
            self._averaging.step()

    def finish(self, timeout: float) -> None:
        """A last exchange; wait for all others; then take the shared weights."""
        if self._averaging is not None:
            self._averaging.finish()
            self._membership.leave()
            self._membership.wait_for_others(timeout)
            self._averaging.pull()

    def statistics(self) -> AveragingStatistics | None:
        """None for a stage without weights."""
        return None if self._averaging is None else self._averaging.statistics()

    def close(self) -> None:
        """Leave."""
        if self._averaging is not None:
            self._averaging.close()
            self._membership.leave()
            for buffer in self._buffers:
                buffer.close()


def _is_floating(array: NDArray[Any]) -> bool:
    return np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"
