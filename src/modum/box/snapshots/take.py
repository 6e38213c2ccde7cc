"""A client's part in a snapshot: it asks all servers for one, and waits for them."""

from modum.box.fanout import Fanout
from modum.box.protocol.limits import MAX_WAIT
from modum.box.protocol.messages import AwaitSnapshot, SnapshotStatistics, TakeSnapshot
from modum.box.transport import Transport
from modum.errors import DeadlineError, SnapshotError
from modum.waiting import Deadline


def take_snapshot(servers: Fanout, timeout: float) -> tuple[str, ...]:
    """Have every server write a snapshot that begins now, and return their folders: see `Box.snapshot`."""
    deadline = Deadline(timeout)
    # all begin before any is waited for: their moments are close together
    attempts = servers.each(lambda _, transport: transport.call(TakeSnapshot(), int, servers.timeout))

    def written(server: int, transport: Transport) -> str:
        while True:
            request = AwaitSnapshot(attempts[server], min(deadline.left, MAX_WAIT))
            answer = transport.call(request, SnapshotStatistics, servers.timeout + MAX_WAIT)
            if answer.attempts >= attempts[server]:
                break
            if deadline.passed:
                raise DeadlineError(f"snapshot: not written after {timeout:g} s (memory server {transport.address})")
        if answer.failure:
            raise SnapshotError(f"snapshot failed: {answer.failure} (memory server {transport.address})")
        return answer.path

    return tuple(servers.each(written))
