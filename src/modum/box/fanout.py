"""A client's transports to all servers of a box, and how an operation is spread over them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from modum.box.calls import Calls
from modum.box.protocol.layout import home_of
from modum.box.protocol.limits import MAX_WAIT
from modum.box.protocol.messages import Request
from modum.box.transport import Transport, Work
from modum.errors import DeadlineError
from modum.waiting import Deadline

T = TypeVar("T")
_OPERATIONS: Final = 4
"""Operations of one client that may be under way on all servers at one time."""


class Fanout:
    """A client's transports to all servers, in the order that is the box's identity. Thread-safe.

    Args:
        transports: one for each server.
        timeout: seconds without any progress after which a call gives up.
    """

    def __init__(self, transports: Sequence[Transport], timeout: float) -> None:
        self.transports = tuple(transports)
        self.timeout = timeout
        self._workers = (
            ThreadPoolExecutor(_OPERATIONS * len(transports), "modum-server") if len(transports) > 1 else None
        )

    def __len__(self) -> int:
        return len(self.transports)

    def home(self, name: str) -> int:
        """Return the number of the server that keeps what `name` has once."""
        return home_of(name, len(self))

    def call_home(self, name: str, request: Request, kind: type[T]) -> T:
        """Ask the home of `name`, and return its answer of the type `kind`."""
        return self.call(self.home(name), request, kind)

    def call(self, server: int, request: Request, kind: type[T]) -> T:
        """Ask the server of this number, and return its answer of the type `kind`."""
        return self.transports[server].call(request, kind, self.timeout)

    def call_until(
        self,
        name: str,
        ask: Callable[[float], Request],
        kind: type[T],
        enough: Callable[[T], bool],
        timeout: float | None,
        failure: Callable[[T], str],
    ) -> T:
        """Ask the home of `name` again and again, each time letting the server wait, until the answer is enough.

        Args:
            name: of the thing that is asked about.
            ask: makes the request that waits so many seconds.
            kind: type of the answer.
            enough: whether the answer ends the wait.
            timeout: seconds; None takes the box's.
            failure: what to say of the last answer when time is up.

        Returns:
            The answer that is enough.

        Raises:
            DeadlineError: time is up.
        """
        deadline = Deadline(self.timeout if timeout is None else timeout)
        transport = self.transports[self.home(name)]
        while True:
            answer = transport.call(ask(min(deadline.left, MAX_WAIT)), kind, self.timeout + MAX_WAIT)
            if enough(answer):
                return answer
            if deadline.passed:
                raise DeadlineError(
                    f"{failure(answer)} after {deadline.timeout:g} s (memory server {transport.address})"
                )

    def each(self, act: Callable[[int, Transport], T], chosen: Iterable[int] | None = None) -> list[T]:
        """Run `act(number, transport)` for all servers, or the chosen ones, at one time.

        Args:
            act: called with the number of a server and the transport to it, on a thread for each.
            chosen: numbers of servers; None: all.

        Returns:
            What the calls returned, in order, once all of them have ended.

        Raises:
            Exception: the first of those that the calls raised, or what was raised in this thread, once all of them
                have ended.
        """
        numbers = list(range(len(self)) if chosen is None else chosen)
        if self._workers is None or len(numbers) == 1:
            return [act(number, self.transports[number]) for number in numbers]
        with Calls([partial(act, number, self.transports[number]) for number in numbers]) as calls:
            calls.hand_out(self._workers)
            return calls.results()

    def run(self, works: Mapping[int, Work]) -> None:
        """Run the parts of an operation, by the numbers of their servers, at one time."""
        if len(works) == 1:  # most operations are small, and nothing is to be made for a single part
            for number, work in works.items():
                self.transports[number].run(work)
            return
        self.each(lambda number, transport: transport.run(works[number]), works)

    def close(self) -> None:
        """Close all connections."""
        for transport in self.transports:
            transport.close()
        if self._workers:
            self._workers.shutdown()
