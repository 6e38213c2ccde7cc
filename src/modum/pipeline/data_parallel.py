"""Train several pipelines of one model: workers of the same stage share its weights by an update rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modum.averaging import LearningRateScale, Worker
from modum.groups import Alone
from modum.parameters import FlatLayout, TensorSpec, Vector, mixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modum.box import Buffer
    from modum.job import Job
    from modum.pipeline.stage import Stage
    from modum.rules import UpdateRule

__all__ = ["StageVector", "share_stage"]


class StageVector(Vector):
    """The floating weights of a stage as one flat float32 vector, read and set through the stage.

    Args:
        stage: a stage with at least one floating weight.

    Raises:
        ValueError: a floating weight is not float32.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        weights = [weight for weight in stage.weights() if _is_floating(weight.array)]
        specs = [
            TensorSpec(
                name=weight.name,
                shape=weight.array.shape,
                dtype=weight.array.dtype.name,
                trainable=weight.trainable,
            )
            for weight in weights
        ]
        for spec in specs:
            if spec.dtype != "float32":
                raise ValueError(
                    f"{spec.name} is {spec.dtype}: several pipelines share float32 weights only; "
                    "convert the model, or train one pipeline"
                )
        self.layout = FlatLayout(specs, alignment=1)
        self.staging: NDArray[np.float32] = np.zeros(self.size, np.float32)
        self._sent = np.zeros(self.size - self.trainable, np.float32)
        self._saved: NDArray[np.float32] | None = None

    def check(self) -> None:
        """Do nothing: the stage returns its weights anew each time, so they cannot have moved."""

    def snapshot(self) -> None:
        self._load(self.staging)
        self._sent[:] = self.staging[self.trainable :]

    def arrived(self) -> None:
        """Do nothing: the copy in host memory is complete at once."""

    def subtract(self, rate: float) -> None:
        weights = np.empty(self.size, np.float32)
        self._load(weights)
        learning, correction = self.trainable, self.staging
        weights[:learning] -= correction[:learning]
        weights[learning:] = mixed(weights[learning:], self._sent, rate, correction[learning:])
        self._store(weights)

    def read(self, buffer: Buffer) -> None:
        weights = np.empty(self.size, np.float32)
        buffer.read(weights)
        self._store(weights)

    def whole(self) -> NDArray[np.float32]:
        weights = np.empty(self.size, np.float32)
        self._load(weights)
        return weights

    def align(self) -> None:
        """Do nothing: a group of one is always aligned."""

    def save(self) -> None:
        self._saved = np.empty(self.size, np.float32)
        self._load(self._saved)

    def restore(self) -> None:
        assert self._saved is not None, "nothing was saved"
        self._store(self._saved)
        self._saved = None

    def _load(self, flat: NDArray[np.float32]) -> None:
        weights = {weight.name: weight.array for weight in self._stage.weights()}
        for spec, start in zip(self.layout.specs, self.layout.starts, strict=True):
            flat[start : start + spec.size] = weights[spec.name].reshape(-1)

    def _store(self, flat: NDArray[np.float32]) -> None:
        self._stage.assign(
            {
                spec.name: flat[start : start + spec.size].reshape(spec.shape)
                for spec, start in zip(self.layout.specs, self.layout.starts, strict=True)
            }
        )


def share_stage(job: Job, stage: Stage, rule: UpdateRule, name: str, timeout: float) -> Worker | None:
    """Share this stage's weights with the same stage of the other pipelines.

    Args:
        job: the job; its groups are ignored, as each worker exchanges alone.
        stage: this worker's stage.
        rule: how the weights move together.
        name: name of the shared weights in the box.
        timeout: seconds to wait for the first pipeline.

    Returns:
        The worker that exchanges them; None for layers without weights.

    Raises:
        MismatchError: the weights or the settings differ from those of the first pipeline.
        DeadlineError: the first one took longer than `timeout` seconds.
    """
    if not any(_is_floating(weight.array) for weight in stage.weights()):
        return None
    vector = StageVector(stage)
    return Worker.join(
        job,
        rule,
        [vector],
        Alone(),
        name=f"{name}/shared/{stage.index}",
        scale=LearningRateScale(),
        model={"tensors": vector.layout.described()},
        timeout=timeout,
        ranks=range(stage.index, job.world_size, stage.stages),
    )


def _is_floating(array: NDArray[Any]) -> bool:
    return np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"
