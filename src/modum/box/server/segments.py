"""The segments of one memory server, in a pool of limited size."""

import os
import threading
import time
from array import array
from collections import Counter
from collections.abc import Mapping as Names
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from modum.box.kernels import STORAGE
from modum.box.memory.segment import VERSION, WAITING, Mapping, Traffic, create_memfd, file_bytes
from modum.box.protocol.limits import MAX_BUFFER, MAX_META
from modum.box.protocol.messages import Create, SegmentInfo, decode, encode
from modum.box.protocol.replication import SegmentState
from modum.box.server.budget import Budget
from modum.box.server.pages import first_page
from modum.errors import BufferExistsError, BufferNotFoundError, MismatchError, ProtocolError

_MADE_SINCE: Final = 2**32
"""More segments than a server makes between two snapshots."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One buffer's part on this server.

    Attributes:
        number: never used again.
        spec: what was asked for.
        descriptor: of the memory's file.
        mapping: the memory in this process.
        restored: whether it comes from a snapshot.
    """

    number: int
    spec: Create
    descriptor: int
    mapping: Mapping
    restored: bool = False

    @property
    def incarnation(self) -> int:
        """Number of the buffer's segment on its home server, which is this one if nothing else was said."""
        return self.spec.incarnation or self.number

    def info(self) -> SegmentInfo:
        """Return what clients are told of the segment."""
        spec = self.spec
        return SegmentInfo(
            spec.name,
            self.number,
            self.incarnation,
            spec.shape,
            spec.dtype,
            spec.nbytes,
            spec.segment_bytes,
            self.mapping.version,
            spec.meta,
            self.restored,
        )


class Segments:
    """The segments by number and by name. Numbers are never used again, so a stale one is always noticed. Thread-safe.

    Args:
        budget: in which the segments are counted.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._mutex = threading.RLock()
        self._segments: dict[int, Segment] = {}
        self._names: dict[str, Segment] = {}
        self._doomed: dict[str, int] = {}
        self._last = 0
        self._past = Traffic(Counter(), Counter())

    def create(self, spec: Create) -> tuple[Segment, int | None]:
        """Make a zero-filled segment, in place of one of an earlier incarnation, which a dead client has left.

        Args:
            spec: the request, checked by `check_create`.

        Returns:
            The segment, which may have been there in this incarnation, and the number of the one that it replaces.

        Raises:
            BufferExistsError: the name is taken, or doomed.
            BufferNotFoundError: a later incarnation is here, so that this one was deleted.
            MismatchError: the buffer's home was restored from a snapshot with it, and this server from one without.
            PoolFullError: the pool has not enough room left.
        """
        with self._mutex:
            left = self._names.get(spec.name)
            if not spec.incarnation and (left is not None or spec.name in self._doomed):
                raise BufferExistsError(f"buffer {spec.name!r} exists already")
            if left is not None and left.incarnation == spec.incarnation:
                return left, None
            if spec.restored:  # zeros must not stand in for numbers that are lost
                raise MismatchError(
                    f"buffer {spec.name!r} came back with the snapshot of its home server, its part here did not: the"
                    " snapshots of the servers are of different moments. HINT: delete it, and make it anew"
                )
            if max(left.incarnation if left else 0, self._doomed.get(spec.name, 0)) > spec.incarnation > 0:
                raise BufferNotFoundError(f"buffer {spec.name!r} was deleted while it was being made")
            replaced = self._drop(left) if left else None
            segment = self._make(self._last + 1, spec)
            self._last += 1
            return segment, replaced

    def restore(self, number: int, spec: Create, version: int) -> Segment:
        """Make a zero-filled segment for the numbers of one that is in a snapshot, before anybody is served.

        Args:
            number: that it had.
            spec: what had been asked for, checked by `check_create`.
            version: of the buffer.

        Returns:
            The segment.

        Raises:
            ValueError: the name or the number is taken.
            PoolFullError: the pool has not enough room left.
        """
        with self._mutex:
            if spec.name in self._names or number in self._segments:
                raise ValueError(f"buffer {spec.name!r}, segment {number}, is there twice")
            segment = self._make(number, spec, restored=True)
            segment.mapping.version = version
            return segment

    def go_on_from(self, last: int) -> None:
        """Number segments from behind `last` on, which are those of a snapshot, and of what came after it.

        Other servers may have parts of buffers that this one has made since: their numbers must not come again.

        Args:
            last: the highest number in the snapshot.
        """
        with self._mutex:
            self._last = max(last + _MADE_SINCE, time.time_ns())

    def state(self) -> tuple[list[SegmentState], int, dict[str, int]]:
        """Return all segments without their numbers, the number of the last one, and the names that are doomed."""
        with self._mutex:
            states = [
                SegmentState(each.number, encode(each.spec), each.restored, list(each.mapping.trailer[VERSION:WAITING]))
                for each in self._segments.values()
            ]
            return states, self._last, dict(self._doomed)

    def take_over(self, states: Sequence[SegmentState], last: int, doomed: Names[str, int]) -> None:
        """Have the segments that another server has, filled with zeros, where nothing is here.

        Args:
            states: of the segments.
            last: number of the last one that was made there.
            doomed: names that are kept there.

        Raises:
            PoolFullError: the pool has not enough room left.
        """
        with self._mutex:
            for state in states:
                segment = self._make(state.number, decode(state.spec, Create), restored=state.restored)
                segment.mapping.trailer[VERSION:WAITING] = memoryview(array("Q", state.words))
            self._last, self._doomed = last, dict(doomed)

    def clear(self) -> None:
        """Forget all segments, and give their memory back."""
        with self._mutex:
            for segment in self.segments():
                self._drop(segment)

    def _make(self, number: int, spec: Create, *, restored: bool = False) -> Segment:
        self._budget.take(
            f"buffer {spec.name!r}",
            name=spec.name,
            buffers=file_bytes(spec.segment_bytes),
            notes=len(spec.meta),
        )
        try:
            descriptor = create_memfd(spec.name, spec.segment_bytes)
            mapping = Mapping(descriptor, spec.segment_bytes)
        except BaseException:
            self._give_back(spec)
            raise
        segment = Segment(number, spec, descriptor, mapping, restored)
        self._segments[number] = self._names[spec.name] = segment
        return segment

    def _give_back(self, spec: Create) -> None:
        self._budget.take("nothing", name=spec.name, buffers=-file_bytes(spec.segment_bytes), notes=-len(spec.meta))

    def named(self, name: str) -> Segment:
        """Return the segment of this name.

        Args:
            name: of the buffer.

        Returns:
            The segment.

        Raises:
            BufferNotFoundError: there is none.
        """
        try:
            return self._names[name]
        except KeyError:
            raise BufferNotFoundError(f"no buffer {name!r}") from None

    def numbered(self, number: int) -> Segment:
        """Return the segment of this number.

        Args:
            number: of the segment.

        Returns:
            The segment.

        Raises:
            BufferNotFoundError: there is none.
        """
        try:
            return self._segments[number]
        except KeyError:
            raise BufferNotFoundError(f"no segment {number}: its buffer was deleted") from None

    def duplicate(self, number: int) -> int:
        """Return a descriptor of a segment's memory, which the caller closes.

        Args:
            number: of the segment.

        Returns:
            A new file descriptor.

        Raises:
            BufferNotFoundError: there is no segment of this number.
        """
        with self._mutex:
            return os.dup(self.numbered(number).descriptor)

    def doom(self, name: str, incarnation: int = 0) -> Segment:
        """Forget the home's segment of a buffer, but keep its name.

        Clients that have it mapped are told by its trailer.

        Args:
            name: of the buffer.
            incarnation: the one that is meant; 0 means whichever is there.

        Returns:
            The segment that was there.

        Raises:
            BufferNotFoundError: there is none of this name and incarnation.
        """
        with self._mutex:
            segment = self.named(name)
            if incarnation not in (0, segment.incarnation):
                raise BufferNotFoundError(f"buffer {name!r} was deleted, and another one was made")
            self._drop(segment)
            self._doomed[name] = segment.incarnation
            return segment

    def doomed(self, name: str) -> int:
        """Return the incarnation of the buffer that was deleted and whose name is kept, or 0."""
        return self._doomed.get(name, 0)

    def delete(self, name: str, incarnation: int) -> int | None:
        """Free the name of a doomed buffer, and forget a segment that is not the home's.

        Args:
            name: of the buffer.
            incarnation: the last one that is meant; what belongs to a later one stays.

        Returns:
            The number of the segment that was here, or None.
        """
        with self._mutex:
            if self.doomed(name) <= incarnation:
                self._doomed.pop(name, None)
            segment = self._names.get(name)
            if segment is None or not segment.spec.incarnation or segment.incarnation > incarnation:
                return None
            return self._drop(segment)

    def _drop(self, segment: Segment) -> int:
        del self._segments[segment.number], self._names[segment.spec.name]
        self._give_back(segment.spec)
        os.close(segment.descriptor)
        segment.mapping.mark_deleted()
        self._past = self._past + segment.mapping.traffic()
        return segment.number

    @property
    def last(self) -> int:
        """The highest number that a segment has had."""
        return self._last

    def is_empty(self) -> bool:
        """Return whether nothing is here."""
        return not (self._segments or self._doomed)

    def traffic(self) -> Traffic:
        """Return what was done with all segments, the deleted ones included."""
        return sum((segment.mapping.traffic() for segment in self.segments()), start=self._past)

    def page(self, prefix: str, after: str) -> list[Segment]:
        """Return a page of the segments whose names start with `prefix`, by name, from behind `after` on."""
        with self._mutex:
            names = sorted(name for name in self._names if name.startswith(prefix) and name > after)
            return list(first_page((self._names[name] for name in names), lambda each: len(each.spec.meta)))

    def segments(self) -> list[Segment]:
        """Return all segments, oldest first."""
        with self._mutex:
            return list(self._segments.values())

    def close(self) -> None:
        """Give the memory back; it stays where a client has it mapped."""
        with self._mutex:
            segments = list(self._segments.values())
            self._segments.clear()
            self._names.clear()
            for segment in segments:
                os.close(segment.descriptor)


def check_create(spec: Create) -> None:
    """Check a request to create a segment, before anything is allocated.

    Args:
        spec: the request.

    Raises:
        ValueError: dtype, shape and sizes do not fit together, or the incarnation is no number of a segment.
    """
    if len(spec.meta) > MAX_META:
        raise ValueError(
            f"meta has {len(spec.meta)} bytes, the limit is {MAX_META}: larger things belong into a buffer"
        )
    try:
        decode(spec.meta, dict[str, Any])
    except ProtocolError as error:
        raise ValueError(f"meta is no map with texts for keys, as msgpack: {error}") from None
    if spec.dtype not in STORAGE:
        raise ValueError(f"dtype {spec.dtype!r} is not one of {', '.join(STORAGE)}")
    elements = 1
    for extent in spec.shape:
        if extent < 1:
            raise ValueError(f"shape {tuple(spec.shape)} has an extent below 1")
        elements *= extent
    if elements * STORAGE[spec.dtype].itemsize != spec.nbytes or not 0 <= spec.segment_bytes <= spec.nbytes:
        raise ValueError(f"shape {tuple(spec.shape)} of {spec.dtype} does not have {spec.nbytes} bytes")
    if spec.nbytes > MAX_BUFFER:
        raise ValueError(f"a buffer has at most {MAX_BUFFER} bytes, not {spec.nbytes}")
    if spec.incarnation < 0:
        raise ValueError(f"an incarnation is at least 0, not {spec.incarnation}")
