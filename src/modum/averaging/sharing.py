"""The shared vectors of a model: made by the first worker, opened by all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modum.coordination.consistency import open_alike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.box import Box, Buffer
    from modum.parameters import Vector

CREATE_SECONDS = 60.0
"""How long the worker that makes the shared buffers may take before another one tries."""


def join(box: Box, name: str, vectors: Sequence[Vector], meta: dict[str, Any], timeout: float) -> list[Buffer]:
    """Open the shared vectors of `name`, one per dtype; the first worker makes them and writes its weights.

    One worker at a time does this. If the first one dies before its weights are written, the next one
    writes.

    Args:
        box: where the buffers are.
        name: the shared model's.
        vectors: this worker's vectors, one for each dtype.
        meta: what must be equal in all workers.
        timeout: seconds to wait for the worker that makes the buffers.

    Returns:
        The buffers, in the order of the vectors.

    Raises:
        MismatchError: `meta` differs from the first worker's.
        DeadlineError: others took longer than `timeout` seconds.
    """
    with box.lock(f"{name}/create", ttl=CREATE_SECONDS, timeout=timeout):
        buffers = [open_alike(box, f"{name}/{vector.dtype}", vector.size, vector.dtype, meta) for vector in vectors]
        if any(buffer.version == 0 for buffer in buffers):
            for vector, buffer in zip(vectors, buffers, strict=True):
                vector.write(buffer)
    return buffers
