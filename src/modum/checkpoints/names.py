"""Where the launcher and the workers of a run find each other in the box, for checkpoints."""

from collections.abc import Iterable

from modum.box import Box, Counter, Value

__all__ = ["answer_of", "asked_by", "clear", "member_of", "over_by", "request_of"]


def request_of(box: Box) -> Value:
    """The checkpoint that is asked for: `number`, from 1, and the `folder` for the workers' files."""
    return box.value("modum/checkpoints/request")


def asked_by(box: Box, rank: int) -> Counter:
    """Goes up when a worker is to look at the request."""
    return box.counter(f"modum/checkpoints/asked/{rank}")


def over_by(box: Box) -> Counter:
    """The number of the newest checkpoint that is over: taken, or given up."""
    return box.counter("modum/checkpoints/over")


def member_of(box: Box, rank: int) -> Value:
    """Whether a worker answers to requests."""
    return box.value(f"modum/checkpoints/member/{rank}")


def answer_of(box: Box, rank: int) -> Value:
    """A worker's newest answer: the `number`, its `states` as they go into the record, and a `failure`."""
    return box.value(f"modum/checkpoints/answer/{rank}")


def clear(box: Box, ranks: Iterable[int]) -> None:
    """Forget the requests and answers of an earlier run, which a restored box has."""
    request_of(box).delete()
    for counter in (over_by(box), *(asked_by(box, rank) for rank in ranks)):
        counter.add(-counter.value)
    for rank in ranks:
        member_of(box, rank).delete()
        answer_of(box, rank).delete()
