"""Writes a running server's memory into snapshots, now and then and when it is asked to, on a thread of its own."""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from modum.box.kernels import STORAGE, portable
from modum.box.memory.apply import Party, apply
from modum.box.memory.locks import Locks
from modum.box.protocol.frames import Op
from modum.box.protocol.layout import Piece, stripe_bytes
from modum.box.protocol.limits import CHUNK, LOCK_TIMEOUT
from modum.box.protocol.messages import SnapshotStatistics
from modum.box.server.membership import Membership
from modum.box.server.primitives import Primitives
from modum.box.server.segments import Segment, Segments
from modum.box.server.waiting import WaitingRoom
from modum.box.snapshots.folder import Folder, snapshots_in
from modum.box.snapshots.manifest import FORMAT, MANIFEST, BufferPart, Manifest, Place, encode_signed
from modum.box.snapshots.tensors import write_tensor
from modum.errors import BufferNotFoundError, ModumError
from modum.units import count, format_seconds

log = logging.getLogger("modum.server")

WRITTEN: Final = ("snapshot", "")
"""What waits for the end of a snapshot wait for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotSettings:
    """Where a memory server writes snapshots, and when.

    Raises:
        ValueError: a number is out of its range.
    """

    folder: Path
    """Of this server alone."""
    every: float | None = 60.0
    """Seconds between the beginnings of two snapshots; None writes them when asked alone (`Box.snapshot`).

    Make it longer if `modum status` shows snapshots that take a large part of it."""
    kept: int = 3
    """Snapshots that stay: the disk has to have room for one more."""

    def __post_init__(self) -> None:
        if self.every is not None and not 0 < self.every < math.inf:
            raise ValueError(f"there must be a positive number of seconds between snapshots, not {self.every:g}")
        if self.kept < 1:
            raise ValueError(f"at least 1 snapshot must be kept, not {self.kept}")


class Snapshots:
    """Writes snapshots from `start` to `close`. Thread-safe.

    Args:
        settings: where and when.
        server: identifier of this run of the server.
        segments: the server's memory.
        primitives: what it keeps besides.
        membership: its place in a box.
        room: where those wait who have asked for a snapshot.
    """

    def __init__(
        self,
        settings: SnapshotSettings,
        server: str,
        segments: Segments,
        primitives: Primitives,
        membership: Membership,
        room: WaitingRoom,
    ) -> None:
        self._every = settings.every
        self._server = server
        self._segments = segments
        self._primitives = primitives
        self._membership = membership
        self._room = room
        self._folder = Folder(settings.folder.absolute(), settings.kept)
        self._address = ""
        self._changed = threading.Condition()
        self._asked = self._begun = 0  # numbers of attempts
        self._stopping = False
        self._last = SnapshotStatistics(str(self._folder.path))
        self._last_begun = self._last_failed = 0.0
        self._thread = threading.Thread(target=self._run, name="modum-snapshots", daemon=True)

    def start(self, address: str, *, restored: bool) -> None:
        """Begin.

        Args:
            address: where the server listens.
            restored: whether it has begun with a snapshot.

        Raises:
            SnapshotError: another server writes into this folder.
        """
        self._address = address
        try:
            self._folder.open()
        except OSError as error:
            self._fail(error, attempts=0)
        if not restored and (old := snapshots_in(self._folder.path)):
            log.warning(
                "%s has %s of an earlier run, which new ones will replace. HINT: --restore begins with the last one",
                self._folder.path,
                count(len(old), "snapshot"),
            )
        self._thread.start()

    def close(self) -> None:
        """Give up what is being written, and end; old snapshots stay."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._folder.close()

    def ask(self) -> int:
        """Have a snapshot written that begins from now on, and return the number of the attempt."""
        with self._changed:
            self._asked = self._begun + 1
            self._changed.notify_all()
            return self._asked

    def statistics(self) -> SnapshotStatistics:
        """Return how it went so far."""
        now = time.monotonic()
        with self._changed:
            last = self._last
            age = now - self._last_begun if last.path else 0.0
            failure_age = now - self._last_failed if last.failure else 0.0
        return SnapshotStatistics(
            last.folder,
            last.attempts,
            last.taken,
            last.path,
            age,
            last.nbytes,
            last.seconds,
            last.failure,
            failure_age,
        )

    def _run(self) -> None:
        due = math.inf if self._every is None else time.monotonic() + self._every
        while True:
            with self._changed:
                left = None if due == math.inf else min(max(0.0, due - time.monotonic()), threading.TIMEOUT_MAX)
                self._changed.wait_for(lambda: self._stopping or self._asked > self._begun, left)
                if self._stopping:
                    return
                self._begun += 1
                attempt = self._begun
            if self._every is not None:
                due = time.monotonic() + self._every
            self._try(attempt)
            self._room.wake(WRITTEN)

    def _try(self, attempt: int) -> None:
        """Write one snapshot; whatever goes wrong with it, the server serves on."""
        began = time.monotonic()
        try:
            self._folder.open()
            unfinished = self._folder.begin()
            try:
                nbytes = self._write(unfinished)
                path = self._folder.commit(unfinished)
            except BaseException:
                self._folder.discard(unfinished)
                raise
        except _StoppedError:
            return
        except (OSError, ModumError) as error:
            self._fail(error, attempt)
            return
        except Exception as error:
            log.exception("a snapshot failed by a fault of the server")
            self._fail(error, attempt)
            return
        seconds = time.monotonic() - began
        if self._last.failure:
            log.warning("snapshots to %s work again", self._folder.path)
        with self._changed:
            taken = self._last.taken + 1
            self._last = SnapshotStatistics(
                self._last.folder, attempt, taken, str(path), nbytes=nbytes, seconds=seconds
            )
            self._last_begun = began

    def _fail(self, error: Exception, attempts: int) -> None:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        place = getattr(error, "filename", None) or self._folder.path
        again = "when it is asked to" if self._every is None else f"in {format_seconds(self._every)}"
        log.error("snapshot to %s failed: %s; the server goes on, and tries again %s", place, reason, again)
        with self._changed:
            last = self._last
            self._last = SnapshotStatistics(
                last.folder, attempts, last.taken, last.path, 0.0, last.nbytes, last.seconds, f"{place}: {reason}"
            )
            self._last_failed = time.monotonic()

    def _write(self, folder: Path) -> int:
        """Write all files of a snapshot, and return their bytes."""
        taken = time.time()
        notes = self._primitives.notes()  # first: what a counter says has been done is in the numbers then
        segments = self._segments.segments()
        place = self._membership.place
        parts = [part for segment in segments if (part := self._write_part(folder, segment, place)) is not None]
        manifest = encode_signed(
            Manifest(
                format=FORMAT,
                server=self._server,
                address=self._address,
                place=place,
                taken=taken,
                last_segment=self._segments.last,
                buffers=parts,
                notes=notes,
            )
        )
        with (folder / MANIFEST).open("xb") as file:
            file.write(manifest)
            file.flush()
            os.fsync(file.fileno())
        return len(manifest) + sum(part.file_bytes for part in parts)

    def _write_part(self, folder: Path, segment: Segment, place: Place | None) -> BufferPart | None:
        """Write the numbers of a segment, and return what to say of them; None if it is deleted by now."""
        spec, path = segment.spec, folder / f"{segment.number}.safetensors"
        version = segment.mapping.version  # first, likewise
        # a whole buffer has its shape, a part of one has the elements of its stripes one after the other
        size = STORAGE[spec.dtype].itemsize
        shape = spec.shape if spec.segment_bytes == spec.nbytes else [spec.segment_bytes // size]
        try:
            descriptor = self._segments.duplicate(segment.number)
            try:
                locks = Locks(descriptor, spec.name, spec.segment_bytes)
            finally:
                os.close(descriptor)
            try:
                party = Party(spec.name, spec.dtype, segment.mapping, locks)
                chunks = self._chunks(party, spec.segment_bytes)
                file_bytes, checksum = write_tensor(path, spec.name, spec.dtype, shape, spec.segment_bytes, chunks)
            finally:
                locks.close()
            segment.mapping.check(spec.name)
        except BufferNotFoundError:
            path.unlink(missing_ok=True)
            return None
        return BufferPart(
            name=spec.name,
            file=path.name,
            file_bytes=file_bytes,
            data_bytes=spec.segment_bytes,
            checksum=checksum,
            segment=segment.number,
            incarnation=segment.incarnation,
            home=not spec.incarnation,
            shape=spec.shape,
            dtype=spec.dtype,
            nbytes=spec.nbytes,
            stripe=stripe_bytes(spec.nbytes, place.servers) if place else 0,
            version=version,
            meta=spec.meta,
        )

    def _chunks(self, party: Party, nbytes: int) -> Iterator[memoryview]:
        """Copy one chunk after the other, each under its lock; no other is locked meanwhile, nor while one is written.

        Yields:
            The copy, which is overwritten by the next one.
        """
        room = np.empty(min(CHUNK, nbytes), np.uint8)
        for offset in range(0, nbytes, CHUNK):
            if self._stopping:
                raise _StoppedError
            copy = room[: min(CHUNK, nbytes - offset)]
            piece = Piece(offset, 0, copy.size)
            numbers = copy.view(STORAGE[party.dtype])
            apply(portable, Op.READ, party, deque([piece]), timeout=LOCK_TIMEOUT, data=numbers)
            yield copy.data


class _StoppedError(Exception):
    """The server stops in the middle of a snapshot."""
