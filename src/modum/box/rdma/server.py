"""What a memory server lets its clients reach one-sidedly: segments to read, and a ring to write for every linked slot.

A client never touches a segment but to read it: numbers that change one are put into the ring of the slot that names
them, and applied by the server under the chunk locks. Workers are only there to let clients connect. Whoever reads or
puts wakes nobody here.
"""

import mmap
import select
import socket
import threading
from typing import Final

import numpy as np

from modum.box.memory.segment import Mapping, file_bytes
from modum.box.protocol.limits import CHUNK, WINDOW
from modum.box.protocol.messages import Linked, Remote
from modum.box.rdma import binding, ucx
from modum.box.rdma.devices import locked_memory_limit, rails, why_no_rails
from modum.errors import ProtocolError, TransportError
from modum.units import format_bytes

_TICK: Final = 0.25
"""Seconds of the longest sleep: an armed worker was seen to miss a wake-up."""


class Ring:
    """A slot's staging memory, which lives as long as the slot, and the worker through which its client comes in.

    Args:
        reachable: the memory that this server lets clients reach.

    Attributes:
        rail: number of the device that the memory is registered with; -1 for none yet.
        memory: the registration.
        worker: waits for the client, or serves it.
    """

    def __init__(self, reachable: "Reachable") -> None:
        self._reachable = reachable
        self._bytes = np.frombuffer(mmap.mmap(-1, WINDOW * CHUNK), np.uint8)
        self.rail = -1
        self.memory: ucx.Memory | None = None
        self.worker: ucx.Worker | None = None

    @property
    def address(self) -> int:
        """Where the memory begins in this process."""
        return self._bytes.ctypes.data

    def room(self, index: int) -> memoryview:
        """Return the chunk of the memory that has this index below `WINDOW`."""
        return self._bytes.data[index * CHUNK : (index + 1) * CHUNK]

    def close(self) -> None:
        """Cut the client off, and release the key to the ring."""
        self._reachable.unlink(self)


class Reachable:
    """What one server offers over RDMA. Loads UCX when the first client asks for it. Thread-safe.

    Attributes:
        rails: names of the devices, in order.
        no_rails: why there are none, or nothing.

    Args:
        forbidden: why nothing is offered, whatever devices there are; empty: nothing speaks against it.
    """

    def __init__(self, forbidden: str = "") -> None:
        self.no_rails = forbidden or why_no_rails() or ""
        self.rails = [] if self.no_rails else rails()
        self._contexts: dict[int, ucx.Context] = {}
        self._segments: dict[tuple[int, int], tuple[ucx.Memory, Mapping]] = {}
        self._rings: set[Ring] = set()
        self._mutex = threading.Lock()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._bell: tuple[socket.socket, socket.socket] | None = None  # wakes the thread

    def link(self, ring: Ring | None, rail: int) -> tuple[Ring, Linked]:
        """Have a ring's worker wait for a new connection of its client.

        Args:
            ring: the slot's ring; None makes one.
            rail: number of the device.

        Returns:
            The ring, and what the client is told.

        Raises:
            ProtocolError: there is no device of this number.
            TransportError: the device cannot be used; the message says why.
        """
        fresh = ring is None
        ring = ring or Ring(self)
        with self._mutex:
            try:
                context = self._context(rail)
                # the old connection ends before a new one begins: nothing late may land in the ring
                self._cut(ring)
                if ring.rail != rail or ring.memory is None:
                    self._release(ring)
                    ring.memory = context.register(ring.address, WINDOW * CHUNK)
                    ring.rail = rail
                ring.worker = context.worker()
                self._rings.add(ring)
                answer = Linked(ring.worker.address(), self.rails[rail], Remote(ring.address, ring.memory.key()))
            except binding.UcxError as error:
                self._cut(ring)
                if fresh:
                    self._release(ring)
                raise TransportError(f"device {self.rails[rail]}: {error}{_hint(WINDOW * CHUNK)}") from None
            if self._thread is None:
                self._bell = socket.socketpair()
                self._thread = threading.Thread(target=self._run, name="modum-rdma", daemon=True)
                self._thread.start()
        self._ring_bell()
        return ring, answer

    def unlink(self, ring: Ring) -> None:
        """Cut a ring's client off, and release the key to the ring."""
        with self._mutex:
            self._cut(ring)
            self._release(ring)

    def reach(self, number: int, name: str, mapping: Mapping, rail: int) -> Remote:
        """Return what a client needs to read a segment, which is registered when the first one asks.

        Args:
            number: of the segment.
            name: of the buffer, for errors.
            mapping: the segment's memory.
            rail: number of the device.

        Returns:
            Address and keys of the memory.

        Raises:
            ProtocolError: there is no device of this number.
            BufferNotFoundError: it was deleted.
            TransportError: it cannot be registered; the message says why.
        """
        with self._mutex:
            mapping.check(name)  # it is marked before `forget` is called
            if (number, rail) not in self._segments:
                nbytes = file_bytes(mapping.bytes.size)
                try:
                    memory = self._context(rail).register(mapping.address, nbytes)
                except binding.UcxError as error:
                    raise TransportError(f"device {self.rails[rail]}: {error}{_hint(nbytes)}") from None
                self._segments[number, rail] = memory, mapping
            memory, _ = self._segments[number, rail]
            return Remote(memory.address, memory.key())

    def forget(self, number: int) -> None:
        """Release the keys of a segment that was deleted. Until that is done its memory stays mapped."""
        with self._mutex:
            for key in [key for key in self._segments if key[0] == number]:
                memory, _ = self._segments.pop(key)
                memory.close()

    def close(self) -> None:
        """Release everything."""
        with self._mutex:
            self._stopping = True
        self._ring_bell()
        if self._thread:
            self._thread.join()
        for ring in list(self._rings):
            self.unlink(ring)
        for number, _ in list(self._segments):
            self.forget(number)
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()
        for end in self._bell or ():
            end.close()

    def _ring_bell(self) -> None:
        if self._bell:
            self._bell[0].send(b"x")

    def _context(self, rail: int) -> ucx.Context:
        if not 0 <= rail < len(self.rails):
            raise ProtocolError(f"this server has {len(self.rails)} RDMA devices, none has number {rail}")
        if rail not in self._contexts:
            self._contexts[rail] = ucx.Context(self.rails[rail])
        return self._contexts[rail]

    def _cut(self, ring: Ring) -> None:
        self._rings.discard(ring)
        if ring.worker:
            ring.worker.close()
            ring.worker = None

    @staticmethod
    def _release(ring: Ring) -> None:
        if ring.memory:
            ring.memory.close()
            ring.memory = None

    def _run(self) -> None:
        """Let clients connect: the only thing that needs this side's help."""
        assert self._bell is not None
        _, bell = self._bell
        while True:
            poll = select.poll()
            poll.register(bell, select.POLLIN)
            with self._mutex:
                if self._stopping:
                    return
                for ring in self._rings:
                    assert ring.worker is not None
                    while not ring.worker.arm():
                        pass
                    poll.register(ring.worker, select.POLLIN)
            if (bell.fileno(), select.POLLIN) in poll.poll(_TICK * 1000):
                bell.recv(4096)


def _hint(nbytes: int) -> str:
    limit = locked_memory_limit()
    if limit is None:
        return ""
    return (
        f"; this server may lock {format_bytes(limit)} of memory, {format_bytes(nbytes)} were asked for"
        " (HINT: ulimit -l unlimited, or LimitMEMLOCK=infinity in its systemd unit)"
    )
