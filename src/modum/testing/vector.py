"""The conformance suite of vectors: what every `modum.parameters.Vector` must do."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modum.box import Box
from modum.parameters import Vector, shared_weights

Array = NDArray[Any]


def check_vector(vector: Vector, box: Box, values: Callable[[], Array], name: str = "modum/testing/vector") -> None:
    """Check a vector of float32 whose worker is its own group.

    Args:
        vector: a fresh vector that holds weights; it is changed.
        box: where a buffer of the vector's size is made, and deleted again.
        values: returns a float32 copy of the weights as the vector lays them out, padding included.
        name: the buffer's.

    Raises:
        AssertionError: the vector does not do what `Vector` says; the message shows the result and what was expected.
    """
    layout = vector.layout
    start = values()
    assert vector.dtype == "float32", f"check_vector takes float32, this vector is {vector.dtype}"
    assert (vector.size, vector.offset) == (start.size, 0), "a worker alone has the whole vector"
    assert tuple(vector.bounds) == (0, vector.size), f"bounds are {tuple(vector.bounds)}, not (0, {vector.size})"
    assert 0 < vector.trainable <= vector.size, "something trains"
    vector.check()
    buffer = box.create(name, vector.size)
    try:
        used = np.zeros(vector.size, bool)
        for spec, begin in zip(layout.specs, layout.starts, strict=True):
            assert not used[begin : begin + spec.size].any(), f"{spec.name} lies on another tensor"
            used[begin : begin + spec.size] = True
        vector.write(buffer)
        _same(buffer.read()[used], start[used], "write puts the weights into the buffer")
        _check_exchange(vector, values, used)
        shared = np.arange(vector.size, dtype=np.float32)
        buffer.write(shared)
        before = values()
        with shared_weights([vector], [buffer]):
            _same(values()[used], shared[used], "shared_weights gives the buffer's numbers")
        _same(values(), before, "after shared_weights the weights are themselves again, to the bit")
        vector.read(buffer)
        _same(values()[used], shared[used], "read takes the buffer's numbers")
        vector.align()
        _same(values()[used], shared[used], "a group of one is aligned")
    finally:
        buffer.close()
        box.delete(name)


def _check_exchange(vector: Vector, values: Callable[[], Array], used: Array) -> None:
    """Check snapshots, corrections, and the mixing of statistics."""
    trainable, rate = vector.trainable, 0.25
    sent = values()
    vector.snapshot()
    vector.arrived()
    _same(vector.staging[used], sent[used], "the snapshot is of the moment at which it was taken")
    correction = np.where(used, np.float32(0.5), np.float32(0))
    vector.staging[:] = correction
    vector.subtract(rate)
    # nothing has moved since the snapshot, so statistics are corrected like all others
    due = sent - correction
    assert np.allclose(values()[used], due[used], rtol=1e-6), "subtract takes the correction from the weights of now"
    vector.snapshot()
    vector.arrived()
    vector.staging[:] = 0
    vector.subtract_and_snapshot(rate)
    vector.arrived()
    _same(vector.staging[used], values()[used], "subtract_and_snapshot leaves a snapshot of the corrected weights")
    _same(
        values()[:trainable][used[:trainable]],
        due[:trainable][used[:trainable]],
        "a correction of zero changes nothing",
    )


def _same(found: Array, due: Array, what: str) -> None:
    assert np.array_equal(found, due), f"{what}: {found} came where {due} was due"
