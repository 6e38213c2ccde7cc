"""The shared vectors of a model: made by the first worker, opened by all others, and made anew by who pushes its own.

Whoever makes them holds a lease meanwhile, and a vector whose version is 0 is one that its maker has not written. A
holder that was stopped loses the lease, may go on at any moment, and must change nothing then. So the next one does not
write into what it finds unwritten: it deletes the vectors and makes them anew, and the writes of the former maker, who
has vectors of an earlier incarnation, reach nobody. That one finds at its end that its lease is lost, and begins again.

Who replaces the shared weights does the same: what others had under way then ends with `BufferNotFoundError`, and
nothing of it reaches the new ones.
"""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any, Final

from modum.coordination import held, open_alike
from modum.errors import BufferExistsError, BufferNotFoundError, DeadlineError, LeaseLostError
from modum.waiting import Deadline, poll

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.box import Box, Buffer, Lease
    from modum.parameters import Vector

CREATE_SECONDS = 60.0
"""How long a worker that makes the shared buffers may be stopped, or cut off, before another one makes them."""

_FENCED: Final = (BufferExistsError, BufferNotFoundError, LeaseLostError)
"""What a worker meets whose lease was lost while it made the buffers."""


def join(
    box: Box, name: str, vectors: Sequence[Vector], meta: dict[str, Any], timeout: float, *, creates: bool = True
) -> list[Buffer]:
    """Open the shared vectors of `name`, one per dtype; the first worker makes them and writes its weights.

    One worker at a time does this. If the first one dies, or is stopped for long, before its weights are written, the
    next one makes the vectors anew; the first one then takes what is there.

    Args:
        box: where the buffers are.
        name: the shared model's.
        vectors: this worker's vectors, one for each dtype.
        meta: what must be equal in all workers.
        timeout: seconds to wait for the worker that makes the buffers; one that was stopped meanwhile waits as long
            again.
        creates: whether this worker may be the first one; else it makes the buffers only if nobody has after `timeout`.

    Returns:
        The buffers, in the order of the vectors.

    Raises:
        MismatchError: `meta` differs from the first worker's.
        DeadlineError: others took longer than `timeout` seconds.
    """
    if not creates:
        with suppress(DeadlineError):
            return poll(
                lambda: _open(box, name, vectors, meta),
                timeout=timeout,
                error=lambda: DeadlineError(f"nobody has made the shared vectors of {name!r}"),
            )
    deadline = Deadline(timeout)
    while True:
        last = deadline.passed
        try:
            with held(box, f"{name}/create", ttl=CREATE_SECONDS, timeout=timeout) as lease:
                return _open(box, name, vectors, meta) or _make(box, name, vectors, meta, lease)
        except _FENCED as error:
            if last:
                raise DeadlineError(f"others made the shared vectors of {name!r} meanwhile: {error}") from error


class SharedVectors:
    """The shared vectors of a model as one worker has them open.

    Args:
        box: where they are.
        name: the shared model's.
        vectors: this worker's vectors, one for each dtype.
        meta: what must be equal in all workers.
        timeout: see `join`.
        creates: see `join`.

    Attributes:
        buffers: in the order of the vectors.

    Raises:
        MismatchError, DeadlineError: see `join`.
    """

    def __init__(
        self,
        box: Box,
        name: str,
        vectors: Sequence[Vector],
        meta: dict[str, Any],
        timeout: float,
        *,
        creates: bool = True,
    ) -> None:
        self._box = box
        self._name = name
        self._vectors = vectors
        self._meta = meta
        self._timeout = timeout
        self.buffers = join(box, name, vectors, meta, timeout, creates=creates)

    def reopen(self) -> list[Buffer]:
        """Open those that are there now, once they were deleted; waits while somebody makes them.

        Returns:
            The buffers.

        Raises:
            MismatchError, DeadlineError: see `join`.
        """
        self.close()
        self.buffers = join(self._box, self._name, self._vectors, self._meta, self._timeout, creates=False)
        return self.buffers

    def replace(self) -> list[Buffer]:
        """Make this worker's weights the shared ones, whatever is under way in others.

        Returns:
            The new buffers.

        Raises:
            DeadlineError: others were making them, again and again, for longer than the timeout.
        """
        self.close()
        deadline = Deadline(self._timeout)
        while True:
            last = deadline.passed
            try:
                with held(self._box, f"{self._name}/create", ttl=CREATE_SECONDS, timeout=self._timeout) as lease:
                    self.buffers = _make(self._box, self._name, self._vectors, self._meta, lease)
                    return self.buffers
            except _FENCED as error:
                if last:
                    raise DeadlineError(f"others made the shared vectors of {self._name!r}: {error}") from error

    def read(self) -> None:
        """Read the shared weights that are there now, by buffers of its own: an exchange may be under way.

        Raises:
            MismatchError, DeadlineError: see `join`.
        """
        while True:
            with ExitStack() as stack:
                buffers = join(self._box, self._name, self._vectors, self._meta, self._timeout, creates=False)
                for buffer in buffers:
                    stack.callback(buffer.close)
                with suppress(BufferNotFoundError):  # they were replaced meanwhile
                    for vector, buffer in zip(self._vectors, buffers, strict=True):
                        vector.read(buffer)
                    return

    def close(self) -> None:
        """Let go of the buffers, which stay in the box."""
        for buffer in self.buffers:
            buffer.close()


def _open(box: Box, name: str, vectors: Sequence[Vector], meta: dict[str, Any]) -> list[Buffer]:
    """Open the vectors if all of them are written; return nothing if not."""
    with ExitStack() as unfit:
        try:
            buffers = [
                unfit.enter_context(closing(open_alike(box, f"{name}/{vector.dtype}", meta))) for vector in vectors
            ]
        except BufferNotFoundError:
            return []
        if any(buffer.version == 0 for buffer in buffers):
            return []
        unfit.pop_all()
        return buffers
    raise AssertionError("unreachable")


def _make(box: Box, name: str, vectors: Sequence[Vector], meta: dict[str, Any], lease: Lease) -> list[Buffer]:
    """Make the vectors in place of those that are there, and write this worker's weights.

    Raises:
        NotFiniteError: they have NaN or infinity; nothing was changed.
    """
    for vector in vectors:
        vector.check_finite()
    names = [f"{name}/{vector.dtype}" for vector in vectors]
    for each in names:
        with suppress(BufferNotFoundError), closing(box.open(each)) as found:
            lease.renew()  # else somebody may have made and written it since it was found unwritten
            found.delete()
    with ExitStack() as failing:
        buffers = [
            failing.enter_context(closing(box.create(each, vector.size, vector.dtype, meta=meta)))
            for each, vector in zip(names, vectors, strict=True)
        ]
        for vector, buffer in zip(vectors, buffers, strict=True):
            vector.write(buffer)
        lease.renew()  # then nobody has found them unwritten, and they stay
        failing.pop_all()
    return buffers
