"""TensorFlow variables as one flat vector per dtype, through one array in host memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from modum.box.kernels import STORAGE
from modum.parameters import ALIGNMENT, FlatLayout, TensorSpec, Vector, check_specs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from modum.box import Buffer
    from modum.tensorflow.group import TensorFlowGroup

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedVariable:
    """A variable that is shared."""

    name: str
    variable: tf.Variable
    trainable: bool

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape, which must be equal in all workers."""
        variable = self.variable
        return TensorSpec(
            name=self.name, shape=tuple(variable.shape), dtype=variable.dtype.name, trainable=self.trainable
        )


def check_variables(variables: Sequence[SharedVariable]) -> None:
    """Check that something is trainable and that the box supports every dtype.

    Args:
        variables: the variables.

    Raises:
        ValueError: nothing is trainable, or the box does not support a dtype.
    """
    check_specs(
        [shared.spec for shared in variables],
        "make it float32; for mixed precision use a policy such as mixed_bfloat16, whose variables are float32",
    )


class VariableVector(Vector):
    """The shared variables of one dtype, which stay where they are.

    A snapshot holds references to the variables' tensors, which are immutable: updating such a variable makes a
    new tensor. They are copied into `staging` in the background, and a correction is subtracted directly from there.
    Variables on an accelerator are concatenated there, so that one copy crosses in each direction.

    Args:
        variables: the variables, at least one, all of one dtype.
        group: the workers that step together with this one.
        device: where to concatenate them; default: where they are, if that is an accelerator.
    """

    def __init__(
        self, variables: Sequence[SharedVariable], group: TensorFlowGroup, *, device: str | None = None
    ) -> None:
        # aligned to cache lines, so that TensorFlow slices the flat tensor without a copy
        layout = FlatLayout([shared.spec for shared in variables], members=group.size, rank=group.rank)
        self.layout = layout
        ordered = [variables[index] for index in layout.order]
        self._variables = [shared.variable for shared in ordered]
        self._starts = layout.starts
        self._group = group
        self._share = _aligned(layout.share, STORAGE[layout.dtype])
        """This member's slice, padded to the longest: all members' slices are gathered as one tensor."""
        self.staging = self._share[: layout.own]
        self._staged = _tensor(self._share)
        on_host = all("CPU" in variable.device for variable in self._variables)
        self._device = device or (None if on_host else self._variables[0].device)
        self._statistics = [shared.variable for shared in ordered if not shared.trainable]
        self._sent: list[tf.Tensor] = [tf.identity(variable) for variable in self._statistics]
        self._taken: list[tf.Tensor] = []
        self._saved: list[tf.Tensor] | None = None
        self._subtract: Callable[..., Any] | None = None
        """Compiled by the first exchange: tracing takes longer than building the model."""

    def check(self) -> None:
        """Do nothing: variables cannot be moved."""

    def snapshot(self) -> None:
        self._average_statistics()
        self._sent = [tf.identity(variable) for variable in self._statistics]
        if self._device is not None:
            flat = _bits(self._flat())
            self.staging[:] = flat[self.offset : self.offset + self.staging.size]
            return
        self._taken = self._values()

    def arrived(self) -> None:
        taken, self._taken = self._taken, []
        for bits, start in zip(map(_bits, taken), self._starts, strict=False):
            low = max(start, self.offset)
            high = min(start + bits.size, self.offset + self.staging.size)
            if low < high:
                self.staging[low - self.offset : high - self.offset] = bits[low - start : high - start]

    def subtract(self, rate: float) -> None:
        lengths = [self.layout.share] * self._group.size
        correction = self._group.gather(self._on_device(self._staged), lengths, purpose="correction")
        if self._subtract is None:
            sent = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self._statistics]
            self._subtract = tf.function(self._subtract_flat, autograph=False).get_concrete_function(
                tf.TensorSpec([None], self._staged.dtype), sent, tf.TensorSpec((), tf.float32)
            )
        self._subtract(correction, self._sent, tf.constant(rate, tf.float32))

    def read(self, buffer: Buffer) -> None:
        flat = _aligned(self.size, STORAGE[self.dtype])
        buffer.read(flat)
        on_device = self._on_device(_tensor(flat))
        for variable, start in zip(self._variables, self._starts, strict=True):
            variable.assign(self._part(on_device, start, variable))

    def whole(self) -> NDArray[Any]:
        flat = np.zeros(self.size, STORAGE[self.dtype])
        for bits, start in zip(map(_bits, self._values()), self._starts, strict=True):
            flat[start : start + bits.size] = bits
        return flat

    def align(self) -> None:
        if self._group.size == 1:
            return
        leaders = self._group.align([variable.read_value() for variable in self._variables], purpose="weights")
        for variable, value in zip(self._variables, leaders, strict=True):
            variable.assign(value)

    def save(self) -> None:
        self._saved = [tf.identity(variable) for variable in self._variables]

    def restore(self) -> None:
        assert self._saved is not None, "nothing was saved"
        for variable, value in zip(self._variables, self._saved, strict=True):
            variable.assign(value)
        self._saved = None

    def _average_statistics(self) -> None:
        if self._group.size == 1 or not self._statistics:
            return
        values = [variable.read_value() for variable in self._statistics]
        for variable, mean in zip(self._statistics, self._group.average(values, purpose="statistics"), strict=True):
            variable.assign(mean)

    def _on_device(self, flat: tf.Tensor) -> tf.Tensor:
        if self._device is None:
            return flat
        with tf.device(self._device):
            return tf.identity(flat)

    def _subtract_flat(self, flat: tf.Tensor, sent: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        first = len(self._variables) - len(self._statistics)
        for variable, start in zip(self._variables[:first], self._starts, strict=False):
            variable.assign_sub(self._part(flat, start, variable))
        self._mix(flat, sent, rate)

    def _mix(self, flat: tf.Tensor, sent: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        """Apply `modum.parameters.mixed` in place."""
        first = len(self._variables) - len(self._statistics)
        for variable, start, then in zip(self._statistics, self._starts[first:], sent, strict=True):
            moved = tf.cast(rate, variable.dtype) * (then - variable)
            variable.assign_add(moved - self._part(flat, start, variable))

    def _values(self) -> list[tf.Tensor]:
        """Return the values of all variables, without a copy."""
        return [variable.value() for variable in self._variables]

    def _part(self, flat: tf.Tensor, start: int, variable: tf.Variable) -> tf.Tensor:
        part = tf.slice(flat, [start], [_elements(variable)])
        if part.dtype != variable.dtype:
            part = tf.bitcast(part, variable.dtype)
        return tf.reshape(part, variable.shape)

    def _flat(self) -> tf.Tensor:
        """Return the vector, concatenated where the variables are."""
        ends = [*self._starts[1:], self.size]
        gaps = [
            end - start - _elements(one) for one, start, end in zip(self._variables, self._starts, ends, strict=True)
        ]
        values = [tf.reshape(value, [-1]) for value in self._values()]
        return tf.concat([tf.pad(value, [[0, gap]]) for value, gap in zip(values, gaps, strict=True)], axis=0)


def flatten(variables: Sequence[SharedVariable], group: TensorFlowGroup) -> list[VariableVector]:
    """Return one `VariableVector` per dtype that occurs, float32 first."""
    by_dtype = {dtype: [shared for shared in variables if shared.variable.dtype.name == dtype] for dtype in DTYPES}
    return [VariableVector(some, group) for some in by_dtype.values() if some]


def _elements(variable: tf.Variable) -> int:
    return int(np.prod(variable.shape, dtype=np.int64))


def _aligned(elements: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros in host memory, aligned so that TensorFlow uses them without a copy."""
    raw = np.zeros(elements * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + elements * dtype.itemsize].view(dtype)


def _tensor(array: NDArray[Any]) -> tf.Tensor:
    """Return a tensor that shares the array's memory."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _bits(tensor: tf.Tensor) -> NDArray[Any]:
    """Return a tensor as NumPy holds it, 1-D, without a copy if it is in host memory."""
    array: NDArray[Any] = np.asarray(tensor.numpy()).reshape(-1)
    return array.view(STORAGE[tensor.dtype.name])
