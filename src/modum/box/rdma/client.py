"""The client's end of a slot's one-sided connection: transfers that go on, over a lost connection too.

A put into the ring that was not announced yet, and every get, may be done again without harm. Nothing else happens
here, so a broken connection is made anew and what was under way is started again.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np

from modum.box.client.connection import SPIN_SECONDS
from modum.box.client.pending import NAP_SECONDS, Pending
from modum.box.protocol.limits import CHUNK, WINDOW
from modum.box.protocol.messages import Link, Linked, Reach, Remote, Request
from modum.box.rdma import binding, ucx
from modum.errors import ConnectionLostError, DeadlineError, TransportError
from modum.waiting import Deadline

log = logging.getLogger("modum.box")

T = TypeVar("T")
Ask = Callable[[Request, type[T], float], T]

_NOTHING: Final = memoryview(b"")
_RETRY_PAUSE: Final = 0.05
"""Seconds between two tries to connect."""


class _Contexts:
    """UCX's contexts of this process: one for each device, as long as somebody uses it. Thread-safe."""

    def __init__(self) -> None:
        self._users: dict[str, tuple[ucx.Context, int]] = {}
        self._mutex = threading.Lock()

    def take(self, device: str) -> ucx.Context:
        """Return the context of a device, which is made if nobody uses it yet."""
        with self._mutex:
            context, users = self._users.get(device) or (ucx.Context(device), 0)
            self._users[device] = context, users + 1
            return context

    def give_back(self, context: ucx.Context) -> None:
        """Close the context if nobody else uses it."""
        with self._mutex:
            _, users = self._users[context.device]
            self._users[context.device] = context, users - 1
            if users == 1:
                del self._users[context.device]
                context.close()


contexts: Final = _Contexts()


@dataclass(slots=True)
class RemoteSegment:
    """A hold on a segment of the server.

    Attributes:
        number: of the segment.
        remotes: what a read of it needs, by rail, once somebody has asked for it.
        closed: whether nobody will read through it any more; links drop their keys before they take the next one.
    """

    number: int
    remotes: dict[int, Remote] = field(default_factory=dict)
    closed: bool = False


@dataclass(slots=True, eq=False)
class Transfer:
    """Bytes on their way between local memory and the server's.

    Attributes:
        local: the local memory; given up when the transfer has ended.
        segment: the segment that is read; None for the ring.
        offset: where in the ring, or in the segment's file, in bytes.
        put: whether the bytes go to the server.
        request: UCX's request, once it was started.
        ended: whether all of it has arrived.
    """

    local: memoryview
    segment: RemoteSegment | None
    offset: int
    put: bool = False
    request: ucx.Request | None = None
    ended: bool = False


class OneSidedConnection:
    """One slot's one-sided connection: a `Carrier`. For one thread at a time, the one that has the slot's connection.

    Args:
        address: the server, for errors.
        slot: whose ring it is for.
        rail: number of the server's device.
        device: name of this machine's device.
        ask: makes a request over any connection.
        timeout: seconds for a connection to come about, and to stand again after it failed.

    Raises:
        TransportError: it cannot be made; the message says why.
    """

    def __init__(self, address: str, slot: int, rail: int, device: str, ask: Ask[Any], timeout: float) -> None:
        self._address = address
        self._slot = slot
        self._rail = rail
        self.ask = ask
        self._timeout = timeout
        self._active: list[Transfer] = []
        self._staged: dict[int, Transfer] = {}  # by the number of the request
        self._fetched: dict[int, Transfer] = {}
        self._keys: dict[int, tuple[RemoteSegment, Any]] = {}
        self._failing: Deadline | None = None  # since the connection has failed and nothing has moved
        self._worker: ucx.Worker | None = None
        self._endpoint: ucx.Endpoint | None = None
        self._context: ucx.Context | None = None
        try:
            self._context = contexts.take(device)
            self._connect()
        except BaseException as error:
            self.close()
            if isinstance(error, binding.UcxError):
                raise TransportError(
                    f"transport 'rdma' cannot be used with memory server {address} over {device}: {error}"
                ) from None
            raise

    def close(self) -> None:
        """End what is under way, and the connection; local memory is the caller's again."""
        self._disconnect()
        self._active.clear()
        if self._context:
            contexts.give_back(self._context)
            self._context = None

    # ---- what a read needs

    def read(self, segment: RemoteSegment, offset: int, local: memoryview) -> Transfer:
        """Start to read bytes of a segment's file, from `offset` on, into `local`."""
        if self._rail not in segment.remotes:
            segment.remotes[self._rail] = self.ask(Reach(segment.number, self._rail), Remote, self._timeout)
        return self._begin(Transfer(local, segment, offset))

    def wait(self, transfers: Sequence[Transfer], timeout: float, phase: object) -> None:
        """Wait until all of them have ended.

        Args:
            transfers: of this connection.
            timeout: seconds without progress.
            phase: what for; its text stands in errors.

        Raises:
            DeadlineError: nothing moved for `timeout` seconds.
            ConnectionLostError: the server is gone.
            BufferNotFoundError: the buffer that is read was deleted meanwhile.
        """
        moved = time.monotonic()
        while not all(transfer.ended for transfer in transfers):
            now = time.monotonic()
            if self.progress():
                moved = now
            elif now - moved > timeout:
                raise DeadlineError(f"{phase}: memory server {self._address} did not answer for {timeout:g} s")
            elif now - moved > SPIN_SECONDS and self.arm():
                poll = select.poll()
                poll.register(self.fileno(), select.POLLIN)
                poll.poll(NAP_SECONDS * 1000)

    # ---- a carrier

    @property
    def busy(self) -> bool:
        """See `Carrier.busy`."""
        return bool(self._active)

    def stage(self, request: Pending) -> bool:
        """See `Carrier.stage`."""
        return not request.staged or self._once(self._staged, request, request.staged, put=True)

    def fetch(self, request: Pending) -> bool:
        """See `Carrier.fetch`."""
        assert request.sink is not None
        return self._once(self._fetched, request, request.sink, put=False)

    def _once(self, known: dict[int, Transfer], request: Pending, local: memoryview, put: bool) -> bool:
        number = request.header.sequence
        if number not in known:
            for old in [old for old in known if old <= number - WINDOW]:
                del known[old]
            known[number] = self._begin(Transfer(local, None, number % WINDOW * CHUNK, put))
        return known[number].ended

    def progress(self) -> bool:
        """See `Carrier.progress`."""
        before = len(self._active)
        try:
            assert self._worker is not None
            assert self._endpoint is not None
            while self._worker.progress():
                pass
            self._endpoint.check()
            for transfer in self._active:
                transfer.ended = transfer.request is not None and transfer.request.done()
        except binding.UcxError as error:
            self._renew(error)
        for transfer in self._active:
            if transfer.ended:
                transfer.local = _NOTHING  # the caller's array is not to be kept alive
        self._active = [transfer for transfer in self._active if not transfer.ended]
        if len(self._active) == before:
            return False
        self._failing = None
        return True

    def arm(self) -> bool:
        """See `Carrier.arm`."""
        assert self._worker is not None
        try:
            return self._worker.arm()
        except binding.UcxError:
            return False  # `progress` will see it, too

    def fileno(self) -> int:
        """See `Carrier.fileno`."""
        assert self._worker is not None
        return self._worker.fileno()

    # ---- inside

    def _begin(self, transfer: Transfer) -> Transfer:
        self._active.append(transfer)
        try:
            self._start(transfer)
        except binding.UcxError as error:
            self._renew(error)
        return transfer

    def _start(self, transfer: Transfer) -> None:
        assert self._endpoint is not None
        local = transfer.local
        address = np.frombuffer(local, np.uint8).ctypes.data
        if transfer.segment is None:
            remote, key = self._ring, self._ring_key
        else:
            remote, key = transfer.segment.remotes[self._rail], self._key(transfer.segment)
        place = remote.address + transfer.offset
        if transfer.put:
            self._endpoint.put(local, address, len(local), place, key)
            transfer.request = self._endpoint.flush()
        else:
            transfer.request = self._endpoint.get(local, address, len(local), place, key)

    def _key(self, segment: RemoteSegment) -> Any:
        assert self._endpoint is not None
        number = segment.number
        if number not in self._keys:
            for other in [other for other, (held, _) in self._keys.items() if held.closed]:
                self._endpoint.release(self._keys.pop(other)[1])
            self._keys[number] = segment, self._endpoint.unpack(segment.remotes[self._rail].key)
        return self._keys[number][1]

    def _connect(self) -> None:
        """Connect, and see that the server's memory can be read."""
        assert self._context is not None
        linked = self.ask(Link(self._slot, self._rail), Linked, self._timeout)
        self._worker = self._context.worker()
        self._endpoint = self._worker.connect(linked.worker)
        self.devices = f"{self._context.device} to {linked.device}"
        self._ring, self._ring_key = linked.ring, self._endpoint.unpack(linked.ring.key)
        first = np.empty(1, np.uint8)
        request = self._endpoint.get(first, first.ctypes.data, 1, linked.ring.address, self._ring_key)
        deadline = Deadline(self._timeout)
        while not request.done():
            if not self._worker.progress():
                self._endpoint.check()
                if deadline.passed:
                    raise DeadlineError(
                        f"connect: memory server {self._address} did not answer over {self.devices} for"
                        f" {self._timeout:g} s"
                    )
                if self._worker.arm():
                    select.select([self._worker], [], [], NAP_SECONDS)

    def _disconnect(self) -> None:
        self._keys.clear()
        settled = self._endpoint is None or self._endpoint.close()
        if self._worker and settled:
            self._worker.close()
        self._endpoint = self._worker = None

    def _renew(self, error: Exception) -> None:
        """Connect again, and start again what was under way."""
        if self._failing is None:
            self._failing = Deadline(self._timeout)
            log.info(
                "memory server %s: the link %s has failed and is made anew: %s", self._address, self.devices, error
            )
        while True:
            self._disconnect()
            if self._failing.passed:
                raise ConnectionLostError(
                    f"memory server {self._address}: the link {self.devices} has failed for"
                    f" {self._timeout:g} s: {error}"
                )
            try:
                self._connect()
                for transfer in self._active:
                    if transfer.segment is not None:  # the error may mean that the buffer was deleted
                        remotes = transfer.segment.remotes
                        remotes.pop(self._rail, None)
                        remotes[self._rail] = self.ask(
                            Reach(transfer.segment.number, self._rail), Remote, self._timeout
                        )
                for transfer in self._active:
                    if not transfer.ended:
                        self._start(transfer)
                return
            except TransportError as another:  # of this end, or of the server's
                error = another
                time.sleep(_RETRY_PAUSE)


def rail_of(turn: int, rails: int) -> int:
    """Return the rail for the connection that is made in this turn; processes of one host begin with different ones."""
    return (os.getpid() + turn) % rails
