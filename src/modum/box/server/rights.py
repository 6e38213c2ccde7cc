"""What each request needs: whether it changes something, and what it names. A request that is not here is refused."""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec

from modum.box.protocol.frames import Op
from modum.box.protocol.messages import (
    AwaitSnapshot,
    Bye,
    CounterAdd,
    CounterWait,
    Create,
    Delete,
    Doom,
    Doomed,
    Join,
    LeaseAcquire,
    LeaseRelease,
    LeaseRenew,
    Link,
    ListBuffers,
    ListLeases,
    Look,
    Message,
    Open,
    Publish,
    QueueDone,
    QueueLook,
    QueueOpen,
    QueueTake,
    Reach,
    TakeSnapshot,
    ValueGet,
    ValuePut,
    Version,
    Wake,
)
from modum.box.tokens import Token
from modum.errors import AuthenticationError


class Need(NamedTuple):
    """What a request needs.

    Attributes:
        writes: whether it changes anything, hands out memory that can be written to, or holds something up.
        names: its field that says what it is about; "nothing" if it is about the server or the client itself.
    """

    writes: bool
    names: Literal["name", "prefix", "segment", "nothing"]


NEEDS: Final[dict[type[Message], Need]] = {
    Join: Need(False, "nothing"),
    Create: Need(True, "name"),
    Open: Need(False, "name"),
    Doom: Need(True, "name"),
    Doomed: Need(False, "name"),
    Delete: Need(True, "name"),
    ListBuffers: Need(False, "prefix"),
    Version: Need(False, "segment"),
    Publish: Need(True, "segment"),
    Wake: Need(True, "segment"),
    CounterAdd: Need(True, "name"),
    CounterWait: Need(False, "name"),
    LeaseAcquire: Need(True, "name"),
    LeaseRenew: Need(True, "name"),
    LeaseRelease: Need(True, "name"),
    ListLeases: Need(False, "prefix"),
    QueueOpen: Need(True, "name"),
    QueueTake: Need(True, "name"),
    QueueDone: Need(True, "name"),
    QueueLook: Need(False, "name"),
    ValuePut: Need(True, "name"),
    ValueGet: Need(False, "name"),
    Link: Need(True, "nothing"),
    Reach: Need(True, "segment"),
    Look: Need(False, "nothing"),
    TakeSnapshot: Need(True, "nothing"),
    AwaitSnapshot: Need(False, "nothing"),
    Bye: Need(False, "nothing"),
}
READS: Final = frozenset({Op.READ, Op.CALL})
"""Frames that a read-only token may send; what a CALL may ask for is in `NEEDS`."""


def allowed(token: Token, request: Message, name_of: Callable[[int], str]) -> Message:
    """Check that a request may be made with a token.

    Args:
        token: of the client.
        request: what it asks for.
        name_of: returns the name of a segment's buffer.

    Returns:
        The request, a list confined to the names of the token's job.

    Raises:
        AuthenticationError: it may not be made.
        BufferNotFoundError: it is about a segment that is not there.
    """
    need = NEEDS.get(type(request))
    what = type(request).__name__
    if need is None:
        if token.job or token.read_only:
            raise AuthenticationError(f"{what} needs a token for the whole box")
        return request
    if token.read_only and need.writes and not (isinstance(request, CounterAdd) and request.amount == 0):
        raise read_only(what)
    if not token.job or need.names == "nothing":
        return request
    if need.names == "prefix":
        own, asked = f"{token.job}/", str(getattr(request, "prefix", ""))
        if own.startswith(asked):
            return msgspec.structs.replace(request, prefix=own)
        check_name(token, asked)
        return request
    named = getattr(request, need.names)
    check_name(token, name_of(named) if need.names == "segment" else named)
    return request


def check_frame(token: Token, op: Op) -> None:
    """Check that a frame of this kind may be sent with a token; raises `AuthenticationError` if not."""
    if token.read_only and op not in READS:
        raise read_only("mapping memory" if op is Op.ATTACH else op.name)


def check_name(token: Token, name: str) -> None:
    """Check that something of this name may be used with a token; raises `AuthenticationError` if not."""
    if not token.covers(name):
        raise AuthenticationError(
            f"this token is for job {token.job!r}, whose names begin with '{token.job}/', and {name!r} does not."
            f" HINT: modum run --name {token.job}, or MODUM_JOB={token.job}, or another token"
        )


def read_only(what: str) -> AuthenticationError:
    """Return the error for something that changes the box."""
    return AuthenticationError(
        f"this token is read-only, and {what} is not. HINT: use a token that was made without --read-only"
    )
