"""How the parts of a buffer come and go, one on each server of the box.

The home server of a name decides. It numbers its segments, and the number of the home's segment is the buffer's
incarnation, which every part carries. A name is free there, or has a buffer, or is doomed: its buffer was deleted, and
parts may be left on other servers. Whoever finds something half done brings it to its end, so that no client which dies
on the way costs a name:

    make    the home's part first, then the others; whoever opens the buffer makes those that are missing
    delete  doom the name first, then delete the others, then free the name; whoever wants the name does the rest

A part of an earlier incarnation is replaced, one of a later incarnation says that this one was deleted.
"""

from collections.abc import Sequence

from modum.box.fanout import Fanout
from modum.box.protocol.layout import Layout
from modum.box.protocol.messages import Create, Delete, Doom, Doomed, Open, SegmentInfo, Version
from modum.errors import BufferExistsError, BufferNotFoundError, ConnectionLostError, DeadlineError, MismatchError
from modum.waiting import Deadline


class Parts:
    """The parts of all buffers of a box, as one client makes, finds and deletes them.

    Args:
        servers: of the box.
    """

    def __init__(self, servers: Fanout) -> None:
        self._servers = servers

    def make(self, name: str, shape: Sequence[int], dtype: str, nbytes: int, meta: bytes) -> list[SegmentInfo]:
        """Make a buffer.

        Args:
            name: with its namespace.
            shape: its extents.
            dtype: of its elements.
            nbytes: of all parts together.
            meta: packed.

        Returns:
            Its parts, in the order of the servers.

        Raises:
            BufferExistsError: the name is taken.
            BufferNotFoundError: somebody deleted it while it was being made.
            PoolFullError: a server has not enough memory left; nothing was made.
            DeadlineError, ConnectionLostError: a server does not answer; it may have been made.
        """
        home = self._servers.home(name)
        size = Layout.of(name, nbytes, len(self._servers)).segments()[home]
        request = Create(name, list(shape), dtype, nbytes, size, meta)
        while True:
            try:
                made = self._servers.call(home, request, SegmentInfo)
                break
            except BufferExistsError:
                if not self._finish_delete(name):
                    raise
        try:
            return self._complete(made)
        except (ConnectionLostError, DeadlineError, BufferNotFoundError):
            raise  # another client may have it already, or has deleted it
        except Exception:
            self.delete(name, made.incarnation)
            raise

    def find(self, name: str) -> list[SegmentInfo]:
        """Find a buffer, and make the parts that its maker did not come to.

        Args:
            name: with its namespace.

        Returns:
            Its parts, in the order of the servers; all of one incarnation.

        Raises:
            BufferNotFoundError: there is none of this name.
            MismatchError: its home was restored from a snapshot with it, and another server from one without.
            PoolFullError: a part is missing, and its server has not enough memory left.
            DeadlineError, ConnectionLostError: a server does not answer.
        """
        deadline = Deadline(self._servers.timeout)
        while True:
            made = self._servers.call_home(name, Open(name), SegmentInfo)
            try:
                return self._complete(made)
            except BufferNotFoundError:  # it was deleted meanwhile, and may have been made again
                if deadline.passed:
                    raise

    def delete(self, name: str, incarnation: int = 0) -> None:
        """Delete a buffer.

        Args:
            name: with its namespace.
            incarnation: the one that is meant; 0 means whichever is there.

        Raises:
            BufferNotFoundError: there is none of this name and incarnation.
            DeadlineError, ConnectionLostError: a server does not answer; if it was deleted, the rest is done by whoever
                uses the name next.
        """
        try:
            incarnation = self._servers.call_home(name, Doom(name, incarnation), int)
        except BufferNotFoundError:
            self._finish_delete(name)
            raise
        self._sweep(name, incarnation)

    def _complete(self, made: SegmentInfo) -> list[SegmentInfo]:
        """Return all parts of a buffer, of which the home's is given; those that are not there are made."""
        name, count = made.name, len(self._servers)
        home = self._servers.home(name)
        sizes = Layout.of(name, made.nbytes, count).segments()
        infos = {home: made}
        try:
            for server in (server for server in range(count) if server != home):
                part = Create(
                    name, made.shape, made.dtype, made.nbytes, sizes[server], made.meta, made.incarnation, made.restored
                )
                infos[server] = self._make_part(server, part, made)
            if count > 1:
                # one who deletes may have looked on a server before its part came
                self._servers.call(home, Version(made.segment), int)
        except BufferNotFoundError:
            self._sweep(name, made.incarnation)
            raise BufferNotFoundError(f"buffer {name!r} was deleted meanwhile") from None
        return [infos[server] for server in range(count)]

    def _make_part(self, server: int, part: Create, made: SegmentInfo) -> SegmentInfo:
        try:
            return self._servers.call(server, part, SegmentInfo)
        except MismatchError:
            # it may also be missing because the buffer was deleted a moment ago, which the home knows
            self._servers.call(self._servers.home(made.name), Version(made.segment), int)
            raise

    def _finish_delete(self, name: str) -> bool:
        """Do what is left to do for a doomed name, and return whether it was doomed."""
        incarnation = self._servers.call_home(name, Doomed(name), int)
        if incarnation:
            self._sweep(name, incarnation)
        return incarnation > 0

    def _sweep(self, name: str, incarnation: int) -> None:
        """Delete what is left of a buffer that its home has deleted, then free its name."""
        home = self._servers.home(name)
        for server in sorted(range(len(self._servers)), key=lambda server: server == home):
            self._servers.call(server, Delete(name, incarnation), type(None))
