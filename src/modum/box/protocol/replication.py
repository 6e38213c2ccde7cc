"""What memory servers of one box say to each other, as msgpack: votes on views, and records of what a primary does.

No I/O. See docs/how-to/replicas.md.
"""

import msgspec

from modum.box.protocol.messages import Message


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A memory server, as a member of a view.

    Attributes:
        server: its number in the box.
        run: random name of this run of it: a server that was started again has another one, and no memory.
    """

    server: int
    run: str


class View(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who serves a place of the box.

    Attributes:
        number: counts the views of the place, from 1.
        primary: the server that clients of the place talk to.
        backup: the server that does all that the primary does, before it is acknowledged; None: there is none.
    """

    number: int
    primary: Member
    backup: Member | None = None


class Hello(Message, frozen=True):
    """The first message of a server to another one. Answered with that one's run, or with FAILED.

    Attributes:
        servers: addresses of all, in order, as the server was told.
        server: number of the one that is meant.
    """

    servers: list[str]
    server: int


# ---- votes: single-decree Paxos for every view of every place


class Prepare(Message, frozen=True):
    """Ask a voter to take part in no smaller ballot any more. Answered with `Vote`."""

    place: int
    number: int
    """Of the view that is to be decided."""
    ballot: int


class Accept(Message, frozen=True):
    """Ask a voter for its vote. Answered with `Vote`."""

    place: int
    ballot: int
    view: View


class Learn(Message, frozen=True):
    """Tell a voter what was decided. Answered with `Vote`."""

    place: int
    view: View


class Ask(Message, frozen=True):
    """Ask a voter for its standing. Answered with `Standing`."""


VoteRequest = Prepare | Accept | Learn | Ask


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A voter's answer.

    Attributes:
        granted: whether it does what it was asked for.
        ballot: the largest one that it has promised to take part in.
        accepted: ballot of the view that it has voted for; 0 if for none.
        view: that view.
        decided: the newest view of the place that it knows to be decided.
    """

    granted: bool
    ballot: int = 0
    accepted: int = 0
    view: View | None = None
    decided: View | None = None


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a voter knows.

    Attributes:
        run: of the server.
        votes: whether it may vote: one that was started again must first find out what it may have voted on before.
        founders: runs of the servers that founded the box with it; empty if it does not know.
        newest: for each place, the newest view that it has voted for, or knows.
        barred: for each place, the newest view on which it does not vote, as it may have done so before it was started
            again.
    """

    run: str
    votes: bool
    founders: list[str]
    newest: dict[int, int]
    barred: dict[int, int]


# ---- records: what a primary has its backup do, in order


class SlotState(msgspec.Struct, frozen=True):
    """A slot of a client's session.

    Attributes:
        number: of the slot.
        incarnation: of the slot.
        last: number of the last request that was applied.
        moved: bytes of the operation under way.
    """

    number: int
    incarnation: bytes
    last: int
    moved: int


class SessionState(msgspec.Struct, frozen=True):
    """A client's session.

    Attributes:
        name: of the client.
        box: digest of its `Join`.
        slots: of the session.
    """

    name: str
    box: bytes
    slots: list[SlotState]


class LeaseState(msgspec.Struct, frozen=True):
    """A lease that somebody holds."""

    grant: int
    session: str
    expires: float
    ttl: float


class HeldQueueState(msgspec.Struct, frozen=True):
    """A work queue, with who holds its items."""

    size: int
    fresh: int
    returned: list[int]
    held: dict[int, str]
    done: int


class PrimitivesState(msgspec.Struct, frozen=True):
    """All that a server keeps besides numbers."""

    counters: dict[str, int]
    values: dict[str, bytes]
    leases: dict[str, LeaseState]
    grants: int
    queues: dict[str, HeldQueueState]


class SegmentState(msgspec.Struct, frozen=True):
    """A segment without its numbers.

    Attributes:
        number: of the segment.
        spec: the request `Create` by which it was made, packed.
        restored: whether it comes from a snapshot.
        words: of the trailer: version and counts.
    """

    number: int
    spec: bytes
    restored: bool
    words: list[int]


class Begin(Message, frozen=True):
    """Begin to follow a primary, with nothing but this. The numbers of the segments come later, chunk by chunk.

    Attributes:
        place: of the box.
        view: newest one that the primary knows, in which there is no backup.
        identifier: of the place.
        memory: limit of the primary's pool.
        now: seconds of the primary's clock.
        join: the list of servers to which the place belongs, packed; empty if it is not known.
        box: digest of that.
        segments: of the primary.
        last: number of the last segment that was made.
        doomed: incarnations of buffers that were deleted and whose names are kept.
        primitives: of the primary.
        sessions: of the primary.
    """

    place: int
    view: int
    identifier: str
    memory: int
    now: float
    join: bytes
    box: bytes
    segments: list[SegmentState]
    last: int
    doomed: dict[str, int]
    primitives: PrimitivesState
    sessions: list[SessionState]


class Replied(Message, frozen=True):
    """What was answered to a request; header and payload of the reply follow."""

    session: str
    slot: int


class Did(Message, frozen=True):
    """A client's request, whose frame follows, is done now."""

    session: str
    slot: int
    now: float


class Opened(Message, frozen=True):
    """A client has a new slot."""

    session: str
    slot: int
    incarnation: bytes
    acknowledged: int
    box: bytes


class Ended(Message, frozen=True):
    """A session has ended without a goodbye."""

    session: str


class Settled(Message, frozen=True):
    """A client has every reply of a slot up to a request, so that nothing need be kept for it."""

    session: str
    slot: int
    sequence: int


class Beat(Message, frozen=True):
    """Nothing has happened."""

    now: float


Record = Begin | Replied | Did | Opened | Settled | Ended | Beat
