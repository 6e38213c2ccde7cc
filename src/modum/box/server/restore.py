"""Gives a server that does not serve yet the memory that is in a snapshot."""

import logging
import time
from pathlib import Path

from modum.box.protocol.messages import Create
from modum.box.server.membership import Membership
from modum.box.server.primitives import Primitives
from modum.box.server.segments import Segments, check_create
from modum.box.snapshots.folder import snapshots_in
from modum.box.snapshots.manifest import BufferPart, read_manifest
from modum.box.snapshots.tensors import read_tensor
from modum.errors import SnapshotError
from modum.units import count, format_seconds

log = logging.getLogger("modum.server")


def restore(folder: Path, segments: Segments, primitives: Primitives, membership: Membership) -> str:
    """Take over the newest snapshot that is good; those that are not are skipped, and it is said why.

    Args:
        folder: of the server's snapshots.
        segments: empty.
        primitives: empty.
        membership: learns the place that the server had.

    Returns:
        What was taken over, in words.

    Raises:
        SnapshotError: there is none, or none that is good; nothing was taken over.
        PoolFullError: the pool is smaller than what is in the snapshot.
    """
    reasons = []
    for snapshot in reversed(snapshots_in(folder)):
        try:
            manifest = read_manifest(snapshot)
            for part in manifest.buffers:
                _restore_part(snapshot, part, segments)
        except SnapshotError as error:
            segments.clear()
            log.warning("snapshot %s is skipped: %s", snapshot, str(error))
            reasons.append(f"{snapshot.name}: {error}")
            continue
        primitives.restore(manifest.notes)
        membership.restore(manifest.place)
        segments.go_on_from(manifest.last_segment)
        age = format_seconds(max(0.0, time.time() - manifest.taken))
        return f"restored {count(len(manifest.buffers), 'buffer')} from {snapshot}, which was taken {age} ago"
    if reasons:
        raise SnapshotError(f"no snapshot in {folder} is good: {'; '.join(reasons)}")
    others = sorted(each.name for each in folder.parent.glob("*") if snapshots_in(each))
    raise SnapshotError(
        f"there is no snapshot in {folder}\nHINT: "
        + (
            f"{folder.parent} has those of {', '.join(others)}: modum server --snapshot-name takes one of these"
            if others
            else "--restore takes the folder that --snapshot-dir had"
        )
    )


def _restore_part(snapshot: Path, part: BufferPart, segments: Segments) -> None:
    spec = Create(
        part.name,
        part.shape,
        part.dtype,
        part.nbytes,
        part.data_bytes,
        part.meta,
        0 if part.home else part.incarnation,
    )
    try:
        check_create(spec)
        segment = segments.restore(part.segment, spec, part.version)
    except ValueError as error:
        raise SnapshotError(f"its manifest contradicts itself: {error}") from None
    read_tensor(snapshot / Path(part.file).name, segment.mapping.bytes, part.file_bytes, part.checksum)
