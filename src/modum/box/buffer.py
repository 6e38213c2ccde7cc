"""A named buffer: an array in the box, and its operations."""

import operator
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, get_args

import msgspec
import numpy as np

from modum.box.compression import Compression, CompressionName, compression_of
from modum.box.fanout import Fanout
from modum.box.kernels import FLOATING, STORAGE, TAKES, Array, Leave, factor_for, fits, portable
from modum.box.parts import Parts
from modum.box.protocol.frames import Op
from modum.box.protocol.layout import Layout, Piece, paired_pieces
from modum.box.protocol.messages import SegmentInfo
from modum.box.transport import Attachment, Work
from modum.errors import DeadlineError
from modum.waiting import Deadline

_CROSSING_BATCH: Final = 32
"""Chunks that pass through the client at one time where source and target lie on different servers."""


@dataclass(frozen=True, slots=True)
class BufferInfo:
    """A buffer as `Box.list` shows it.

    Attributes:
        name: within the client's namespace.
        shape: its extents.
        dtype: "float32", "bfloat16" or "int64".
        nbytes: bytes on all servers together.
        version: number of operations that changed it.
        meta: what its maker said of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    version: int
    meta: dict[str, Any]

    @classmethod
    def of(cls, info: SegmentInfo) -> "BufferInfo":
        """Return what the home server knows, for people."""
        meta = msgspec.msgpack.decode(info.meta)
        return cls(info.name, tuple(info.shape), info.dtype, info.nbytes, info.version, meta)


class Buffer:
    """An array in the box; made by `Box.create` and `Box.open`.

    Every operation is acknowledged when it returns: it is in the memory of the servers, exactly once. Operations of
    one buffer object are in order; any thread may call them. A chunk (1 MiB) changes in one step for everybody who
    reads; different chunks may be seen at different moments.

    Offsets and counts are in elements of the flat array. Arrays are given in the buffer's dtype and C-contiguous;
    bfloat16 is `uint16` holding the bits, or `ml_dtypes.bfloat16`. For what is only read, a number or a list of
    numbers will do: int64 takes whole numbers, float32 rounds floats and takes whole numbers that it holds exactly.

    Args:
        servers: of the box.
        attachments: to the buffer's segment on each server.
        closed: called when the buffer is closed.

    Attributes:
        name: of the buffer, with its namespace.
        shape: its extents.
        dtype: "float32", "bfloat16" or "int64".
        size: number of elements.
        nbytes: bytes on all servers together.
        meta: what its maker said of it.

    Every operation raises
        ValueError, TypeError: the array, the numbers or the range do not fit; nothing was changed.
        BufferNotFoundError: the buffer was deleted.
        DeadlineError: a server did not answer, or a chunk stayed locked, for the box's timeout; what was not
            acknowledged may have been applied, once.
        ConnectionLostError: a server is gone.
    """

    def __init__(self, servers: Fanout, attachments: Sequence[Attachment], closed: Callable[["Buffer"], None]) -> None:
        home = servers.home(attachments[0].info.name)
        self._servers = servers
        self._attachments = tuple(attachments)
        self._closed = closed
        self._home = home
        self._mutex = threading.RLock()
        info = BufferInfo.of(attachments[home].info)
        self.name = info.name
        self.shape = info.shape
        self.dtype = info.dtype
        self.nbytes = info.nbytes
        self.meta = info.meta
        self._incarnation = attachments[home].info.incarnation
        self._item = STORAGE[info.dtype].itemsize
        self._layout = Layout.of(info.name, info.nbytes, len(servers))
        self.size = info.nbytes // self._item

    def __repr__(self) -> str:
        return f"Buffer({self.name!r}, shape={self.shape}, dtype={self.dtype!r})"

    def close(self) -> None:
        """Let go of the buffer, which stays in the box. Closing the box does this too."""
        with self._mutex:
            for attachment in self._attachments:
                attachment.close()
            self._attachments = ()
        self._closed(self)

    def delete(self) -> None:
        """Delete this very buffer, and no newer one that somebody has made under its name since it was opened.

        Raises:
            BufferNotFoundError: it was deleted.
        """
        Parts(self._servers).delete(self.name, self._incarnation)

    # ---- between the caller's array and the box

    def read(self, out: Array | None = None, *, offset: int = 0, count: int | None = None) -> Array:
        """Read elements.

        Args:
            out: writable array to read into.
            offset: first element.
            count: how many; None takes as many as `out` has, or all up to the end.

        Returns:
            `out`, or a new array: of the buffer's shape if everything is read, else 1-D.

        Raises:
            ValueError: `out` has not as many elements as are to be read, or one of the reasons of the class.
        """
        offset = _whole(offset, "offset")
        if count is None:
            count = self.size - offset if out is None else self._flat(out, "out", writable=True).size
        count = _whole(count, "count")
        if out is None:
            out = np.empty(self.shape if (offset, count) == (0, self.size) else max(count, 0), STORAGE[self.dtype])
        flat = self._flat(out, "out", writable=True)
        if flat.size != count:
            raise ValueError(f"out has {flat.size} elements, not the {count} that are to be read")
        self._transfer(Op.READ, flat, offset)
        return out

    def write(self, x: Any, *, offset: int = 0) -> None:
        """Set elements to those of an array.

        Args:
            x: an array in the buffer's dtype, or what NumPy makes one of.
            offset: first element.
        """
        self._transfer(Op.WRITE, self._flat(x, "x"), offset)

    def add(self, x: Any, scale: float = 1.0, *, offset: int = 0) -> None:
        """Add `scale * x` to elements (accumulate).

        Args:
            x: an array in the buffer's dtype, or what NumPy makes one of.
            scale: a whole number for int64.
            offset: first element.
        """
        self._transfer(Op.ADD, self._flat(x, "x"), offset, factor_for(self.dtype, scale))

    def exchange(
        self,
        x: Array,
        moving_rate: float,
        *,
        offset: int = 0,
        leave: Leave = "moved",
        compression: CompressionName = "none",
    ) -> None:
        """Move `x` and the elements g from `offset` on toward each other: d = moving_rate (x - g); x -= d; g += d.

        This is elastic averaging (Zhang, Choromanska, LeCun 2015, equations 5 and 6) with the present g.

        Args:
            x: writable array, changed in place. After an error it may be partly changed.
            moving_rate: in [0, 1].
            offset: first element.
            leave: what is in `x` afterwards. "moved": x - d; "difference": d, for a caller whose own copy has moved on
                in the meantime; "present": the elements as they were before, g.
            compression: how the numbers cross the wire of the `tcp` transport, to servers that this client reaches by
                it; the others compute as without. The elements stay float32, and both sides move by one d, to the bit:
                `docs/explanation/contract.md` says how exact it is. "none": 4 bytes each way. "bfloat16": 2 each way.
                "int8": 1.5 to the server and 1 back, a little more for the scales of tiles.

        Raises:
            ValueError: `moving_rate` is out of its range, `leave` or `compression` is none of what there is, the buffer
                is int64, or is not float32 and its numbers were to be compressed, or one of the reasons of the class.
        """
        if self.dtype not in FLOATING:
            raise ValueError(f"exchange needs a floating dtype; buffer {self.name!r} is {self.dtype}")
        if not 0 <= moving_rate <= 1:
            raise ValueError(f"moving_rate must be in [0, 1], not {moving_rate}")
        if leave not in get_args(Leave):
            raise ValueError(f"leave must be one of {', '.join(get_args(Leave))}, not {leave!r}")
        chosen = compression_of(compression)
        if chosen and self.dtype != "float32":
            raise ValueError(
                f"compression {compression!r} is for float32, buffer {self.name!r} is {self.dtype}, whose numbers cross"
                f' the wire in {self._item} bytes: leave compression at "none"'
            )
        flat = self._flat(x, "x", writable=True)
        self._transfer(Op.EXCHANGE, flat, offset, factor_for(self.dtype, moving_rate), leave, chosen)

    # ---- between two buffers

    def copy(self, source: "Buffer", *, offset: int = 0, source_offset: int = 0, count: int | None = None) -> None:
        """Set elements to those of another buffer, or of another range of this one.

        Args:
            source: of the same dtype.
            offset: first element here.
            source_offset: first element there.
            count: how many; None takes all there.
        """
        self._combine(Op.COPY, source, 1, offset, source_offset, count)

    def scale(
        self,
        factor: float,
        source: "Buffer | None" = None,
        *,
        offset: int = 0,
        source_offset: int | None = None,
        count: int | None = None,
    ) -> None:
        """Set elements to `factor` times those of `source`; without a source, multiply them in place.

        Args:
            factor: a whole number for int64.
            source: of the same dtype.
            offset: first element here.
            source_offset: first element there; None takes 0, or `offset` in place.
            count: how many; None takes all there.
        """
        if source_offset is None:
            source_offset = offset if source is None else 0
        self._combine(Op.SCALE, source or self, factor, offset, source_offset, count)

    def axpy(
        self,
        factor: float,
        source: "Buffer",
        *,
        offset: int = 0,
        source_offset: int = 0,
        count: int | None = None,
    ) -> None:
        """Add `factor` times the elements of another buffer, or of another range of this one.

        Args:
            factor: a whole number for int64.
            source: of the same dtype.
            offset: first element here.
            source_offset: first element there.
            count: how many; None takes all there.
        """
        self._combine(Op.AXPY, source, factor, offset, source_offset, count)

    # ---- versions

    @property
    def version(self) -> int:
        """Number of operations on this buffer, by anybody, that changed it and have finished."""
        return self._servers.transports[self._home].version(self._held()[self._home], self._servers.timeout)

    def wait(self, version: int, timeout: float | None = None) -> int:
        """Wait until enough operations that change the buffer have finished.

        Args:
            version: how many, since the buffer was made.
            timeout: seconds to wait; None takes the box's.

        Returns:
            The version, which is at least `version`.

        Raises:
            DeadlineError: they have not finished in time; the message has the version.
        """
        version = _whole(version, "version")
        deadline = Deadline(self._servers.timeout if timeout is None else timeout)
        transport, attachment = self._servers.transports[self._home], self._held()[self._home]
        while True:
            last = deadline.passed
            now = transport.version(attachment, deadline.left, version)
            if now >= version:
                return now
            if last:
                raise DeadlineError(
                    f"wait for buffer {self.name!r}: version {version} was not reached in {deadline.timeout:g} s,"
                    f" it is {now} (memory server {transport.address})"
                )

    # ---- inside

    def _held(self) -> tuple[Attachment, ...]:
        if not self._attachments:
            raise ValueError(f"buffer {self.name!r} was closed here: open it again with box.open({self.name!r})")
        return self._attachments

    def _flat(self, x: Any, label: str, *, writable: bool = False) -> Array:
        """Return `x` as a 1-D view in the storage dtype; what is no array yet is converted, if it is only read."""
        if not writable and not isinstance(x, np.ndarray):
            x = self._converted(x, label)
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{label} must be a NumPy array, not {type(x).__name__}")
        if type(x) is not np.ndarray:
            if np.ma.isMaskedArray(x):
                raise TypeError(f"{label} is a masked array, and buffers have no masks: pass {label}.filled(...)")
            x = np.asarray(x)  # a subclass may count otherwise: np.matrix stays 2-D, whatever one does
        storage = STORAGE[self.dtype]
        if x.dtype != storage:
            if x.dtype.newbyteorder("=") == storage:
                raise ValueError(
                    f"{label} is big-endian ({x.dtype.str}), buffer {self.name!r} is in this machine's order of bytes:"
                    f" convert it with {label}.astype({storage.name!r})"
                )
            if x.dtype.name != self.dtype:  # ml_dtypes has a bfloat16
                bits = " (uint16 arrays hold the bits of bfloat16)" if self.dtype == "bfloat16" else ""
                raise ValueError(
                    f"{label} is {x.dtype}, buffer {self.name!r} is {self.dtype}{bits}: convert it with astype"
                )
            x = x.view(storage)
        if not x.flags.c_contiguous:
            raise ValueError(f"{label} is not C-contiguous: pass np.ascontiguousarray(...)")
        if writable and not x.flags.writeable:
            raise ValueError(f"{label} is read-only, and would be changed in place: pass a copy")
        flat: Array = x.reshape(-1)
        return flat

    def _converted(self, x: Any, label: str) -> Array:
        """Return as an array what is none yet, if its numbers are what the buffer can hold."""
        given = np.asarray(x)
        if given.dtype == STORAGE[self.dtype] or (hasattr(x, "__array__") and not isinstance(x, np.generic)):
            return given
        if self.dtype == "bfloat16":
            if given.dtype.name == self.dtype:
                return given
            raise TypeError(
                f"{label} is a {type(x).__name__}, buffer {self.name!r} is bfloat16 and takes uint16 arrays that hold"
                f" the bits, or arrays of ml_dtypes.bfloat16: np.asarray({label}, ml_dtypes.bfloat16)"
            )
        objects = np.asarray(x, object)
        for number in objects.flat:
            plain = number.item() if isinstance(number, np.generic) else number
            if not isinstance(plain, int | float):
                raise TypeError(
                    f"{label} has {plain!r}, buffer {self.name!r} is {self.dtype} and takes whole numbers and floats"
                )
            if not fits(self.dtype, plain):
                raise ValueError(
                    f"{label} has {plain}, buffer {self.name!r} is {self.dtype} and takes {TAKES[self.dtype]}"
                )
        return objects.astype(STORAGE[self.dtype])

    def _check_range(self, offset: int, count: int) -> None:
        if offset < 0 or count < 1 or offset + count > self.size:
            raise ValueError(
                f"elements [{offset}, {offset + count}) are not a range within buffer {self.name!r},"
                f" which has {self.size} elements"
            )

    def _transfer(
        self,
        op: Op,
        flat: Array,
        offset: int,
        factor: Any = 0.0,
        leave: Leave = "moved",
        compression: Compression | None = None,
    ) -> None:
        offset = _whole(offset, "offset")
        self._check_range(offset, flat.size)
        with self._mutex:
            held = self._held()
            cut = self._layout.pieces(offset * self._item, flat.nbytes)
            # an operation that has nothing to do elsewhere raises the version with its last request
            at_home = len(cut) == 1 and self._home in cut
            publish = at_home and op is not Op.READ
            works = self._works(
                op, cut, held, data=flat, factor=factor, leave=leave, compression=compression, publish=publish
            )
            self._servers.run(works)
            if op is not Op.READ and not at_home:
                self._publish(held)

    def _combine(
        self, op: Op, source: "Buffer", factor: float, offset: int, source_offset: int, count: int | None
    ) -> None:
        if source._servers is not self._servers:
            raise ValueError(
                f"the source is buffer {source.name!r} of another Box (memory servers"
                f" {', '.join(transport.address for transport in source._servers.transports)}): open it in the box of"
                f" buffer {self.name!r}, or read it and write what was read"
            )
        offset, source_offset = _whole(offset, "offset"), _whole(source_offset, "source_offset")
        if (source.name, source._incarnation) == (self.name, self._incarnation):
            source = self  # another handle of the same buffer would contend with this one for the locks
        if count is None:
            count = min(self.size - offset, source.size - source_offset)
        count = _whole(count, "count")
        self._check_range(offset, count)
        source._check_range(source_offset, count)
        if source.dtype != self.dtype:
            raise ValueError(f"buffer {source.name!r} is {source.dtype}, buffer {self.name!r} is {self.dtype}")
        if source is self and 0 < abs(offset - source_offset) < count:
            raise ValueError(f"the ranges from {source_offset} and from {offset}, {count} elements each, overlap")
        scalar = factor_for(self.dtype, factor)
        with ExitStack() as stack:
            for buffer in sorted({self, source}, key=id):
                stack.enter_context(buffer._mutex)
            held, others = self._held(), source._held()
            together: dict[int, list[Piece]] = {}
            apart: list[tuple[int, int, Piece]] = []
            for server, other, piece in paired_pieces(
                self._layout, offset * self._item, source._layout, source_offset * self._item, count * self._item
            ):
                if server == other:
                    together.setdefault(server, []).append(piece)
                else:
                    apart.append((server, other, piece))
            works = self._works(op, together, held, factor=scalar)
            for server, work in works.items():
                work.source = others[server]
            self._servers.run(works)
            for start in range(0, len(apart), _CROSSING_BATCH):
                self._carry(op, apart[start : start + _CROSSING_BATCH], others, held, scalar)
            self._publish(held)

    def _publish(self, held: Sequence[Attachment]) -> None:
        """Raise the version: an operation has finished on all servers."""
        self._servers.transports[self._home].publish(held[self._home], self._servers.timeout)

    def _carry(
        self,
        op: Op,
        batch: Sequence[tuple[int, int, Piece]],
        sources: Sequence[Attachment],
        targets: Sequence[Attachment],
        factor: Any,
    ) -> None:
        """Do a part of an operation between two buffers whose bytes lie on different servers: through this client."""
        data = np.empty(sum(piece.nbytes for _, _, piece in batch) // self._item, STORAGE[self.dtype])
        reads: dict[int, list[Piece]] = {}
        writes: dict[int, list[Piece]] = {}
        start = 0
        for server, other, piece in batch:
            reads.setdefault(other, []).append(Piece(piece.source_offset, start, piece.nbytes))
            writes.setdefault(server, []).append(Piece(piece.offset, start, piece.nbytes))
            start += piece.nbytes
        self._servers.run(self._works(Op.READ, reads, sources, data=data))
        if op is Op.SCALE:
            portable.scale(self.dtype, data, data, factor)
        store = Op.ADD if op is Op.AXPY else Op.WRITE
        self._servers.run(self._works(store, writes, targets, data=data, factor=factor))

    def _works(self, op: Op, cut: dict[int, list[Piece]], held: Sequence[Attachment], **rest: Any) -> dict[int, Work]:
        """Return one `Work` for every server that has a part."""
        return {
            server: Work(op=op, target=held[server], pieces=parts, timeout=self._servers.timeout, **rest)
            for server, parts in cut.items()
        }


def _whole(number: Any, label: str) -> int:
    """Return what stands for a whole number as Python's, whose products do not overflow."""
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(f"{label} must be a whole number, not {number!r}") from None
