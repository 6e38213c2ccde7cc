"""One voter on the views of all places: an acceptor of single-decree Paxos for each view. No I/O.

A view's number is an instance of Paxos, and whatever is decided for it once stays decided. A majority of the box's
servers decides. A server keeps its votes in memory alone: one that was started again has forgotten them. It takes part
again when it knows from the others which views it may have voted on, and leaves those to them.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from modum.box.protocol.replication import Accept, Ask, Learn, Prepare, Standing, View, Vote, VoteRequest

ABSTAINS: Final = -1
"""In place of a ballot: this voter cannot take part, whichever ballot it is."""


@dataclass(slots=True)
class _Instance:
    """What a voter has said about one view of a place."""

    ballot: int = 0
    accepted: int = 0
    view: View | None = None


@dataclass(slots=True)
class _Place:
    decided: View | None = None
    barred: int = 0
    """The newest view on which this voter may have voted before it was started again."""
    instances: dict[int, _Instance] = field(default_factory=dict)

    @property
    def newest(self) -> int:
        voted = [number for number, each in self.instances.items() if each.view]
        return max([self.decided.number if self.decided else 0, *voted])


class Voter:
    """A server's votes. Thread-safe.

    Args:
        run: random name of this run of the server.
        servers: how many vote.
    """

    def __init__(self, run: str, servers: int) -> None:
        self.run = run
        self._servers = servers
        self._places: dict[int, _Place] = {place: _Place() for place in range(servers)}
        self._founders: list[str] = []
        self._votes = False
        self._mutex = threading.Lock()

    @property
    def votes(self) -> bool:
        """Whether it takes part."""
        return self._votes

    @property
    def votes_on_all(self) -> bool:
        """Whether it votes on the next view of every place."""
        return self._votes and all(
            place.barred <= (place.decided.number if place.decided else 0) for place in self._places.values()
        )

    def decided(self, place: int) -> View | None:
        """Return the newest view of a place that is known to be decided."""
        return self._places[place].decided

    def answer(self, request: VoteRequest) -> Vote | Standing:
        """Answer a request of a server of the box.

        Args:
            request: of the server.

        Returns:
            The answer.
        """
        with self._mutex:
            match request:
                case Ask():
                    newest = {number: place.newest for number, place in self._places.items()}
                    barred = {number: place.barred for number, place in self._places.items()}
                    return Standing(self.run, self._votes, self._founders, newest, barred)
                case Learn(place, view):
                    self._learn(place, view)
                    return Vote(True, decided=self._places[place].decided)
                case Prepare(place, number, ballot):
                    return self._vote(place, number, ballot, None)
                case Accept(place, ballot, view):
                    return self._vote(place, view.number, ballot, view)

    def _vote(self, number: int, instance: int, ballot: int, view: View | None) -> Vote:
        place = self._places[number]
        if place.decided and place.decided.number >= instance:
            return Vote(False, decided=place.decided)
        if not self._votes or instance <= place.barred:
            return Vote(False, ABSTAINS, decided=place.decided)
        said = place.instances.setdefault(instance, _Instance())
        granted = ballot >= said.ballot if view else ballot > said.ballot
        if granted:
            said.ballot = ballot
            if view:
                said.accepted, said.view = ballot, view
        return Vote(granted, said.ballot, said.accepted, said.view, place.decided)

    def _learn(self, number: int, view: View) -> None:
        place = self._places[number]
        if place.decided is None or place.decided.number < view.number:
            place.decided = view
            for instance in [each for each in place.instances if each <= view.number]:
                del place.instances[instance]

    def enter(self, others: Mapping[int, Standing]) -> bool:
        """Begin to vote, if what the other servers say allows it.

        Args:
            others: their standings, of those that answered.

        Returns:
            Whether it votes now.
        """
        with self._mutex:
            if self._votes:
                return True
            founded = [each for each in others.values() if each.votes and self.run in each.founders]
            if founded:  # it was there when the box began, and has not been started again since
                self._founders, self._votes = founded[0].founders, True
                return True
            if len(others) == self._servers - 1 and not any(each.votes for each in others.values()):
                self._founders = sorted([self.run, *(each.run for each in others.values())])
                self._votes = True
                return True
            valid = [each for each in others.values() if each.votes]
            # a view that this server may have voted on follows one that a majority has voted for, of which all but
            # this server are others: so many of these must be asked that one of them is among those
            majority = majority_of(self._servers)
            if len(valid) < self._servers - majority + 1:
                return False
            for number, place in self._places.items():
                place.barred = 1 + max(each.newest.get(number, 0) for each in valid)
            self._founders, self._votes = valid[0].founders, True
            return True


def majority_of(servers: int) -> int:
    """Return how many of so many servers are a majority."""
    return servers // 2 + 1


def choose(votes: Sequence[Vote], wish: View | None) -> View | None:
    """Return the view to ask votes for, after a majority has promised: one that may have been decided comes first.

    Args:
        votes: of the majority.
        wish: what to ask for if there is none; None: nothing.

    Returns:
        The view.
    """
    voted = [vote for vote in votes if vote.view is not None]
    return max(voted, key=lambda vote: vote.accepted).view if voted else wish
