"""How a server has a view decided: the proposer of single-decree Paxos."""

import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from modum.box.protocol.replication import Accept, Ask, Learn, Prepare, Standing, View, Vote, VoteRequest
from modum.box.server.replication.voter import ABSTAINS, Voter, choose, majority_of
from modum.waiting import Deadline

_PAUSE: Final = 0.02
"""Most seconds between two ballots of one server, so that two servers do not outbid each other for ever."""
_PATIENCE: Final = 2.0
"""Seconds after which a server that is outbid, or finds too few voters, gives up for now."""


class Council:
    """The voters of a box, as one server reaches them. Thread-safe.

    Args:
        server: number of this one.
        servers: how many there are.
        voter: of this server.
        ask: asks the server of a number, and returns its answer; it raises OSError if that cannot be reached.
    """

    def __init__(self, server: int, servers: int, voter: Voter, ask: Callable[[int, VoteRequest], object]) -> None:
        self._server = server
        self._servers = servers
        self._voter = voter
        self._ask = ask
        self._silent: set[int] = set()  # those that did not answer last time are asked last
        self._barred: dict[int, int] = {}
        self._highest = 0
        self._mutex = threading.Lock()

    def meet(self) -> None:
        """Ask the others for their standing, and begin to vote if it allows that."""
        standings = {}
        for server in range(self._servers):
            if server != self._server and isinstance(standing := self._answer(server, Ask()), Standing):
                standings[server] = standing
        self._voter.enter(standings)
        self._barred = {
            place: max((each.barred.get(place, 0) for each in standings.values()), default=0)
            for place in range(self._servers)
        }

    def barred(self, place: int) -> int:
        """Return the newest view of a place on which not everybody votes, as was found when they last met."""
        return self._barred.get(place, 0)

    def latest(self, place: int) -> View | None:
        """Return the newest view of a place, after a majority was asked.

        Args:
            place: of the box.

        Returns:
            The view; None if nothing has been decided yet.

        Raises:
            OSError: no majority can be reached.
        """
        while True:
            known = self._voter.decided(place)
            if self._settle(place, known.number + 1 if known else 1, None) is None:
                return known

    def decide(self, place: int, wish: View) -> View:
        """Have a view decided.

        Args:
            place: of the box.
            wish: the view that is wished for; the one before it is decided.

        Returns:
            The view of that number that was decided, or a later one: the one that was wished for, or another.

        Raises:
            OSError: no majority can be reached.
        """
        decided = self._settle(place, wish.number, wish)
        assert decided is not None
        return decided

    def _settle(self, place: int, number: int, wish: View | None) -> View | None:
        """Return what is decided for a view or a later one; without a wish, None where nobody has voted on it."""
        deadline = Deadline(_PATIENCE)
        while True:
            ballot = self._ballot()
            promises = self._gather(place, Prepare(place, number, ballot))
            if (decided := self._voter.decided(place)) and decided.number >= number:
                return decided
            if len(promises) >= majority_of(self._servers):
                view = choose(promises, wish)
                if view is None:
                    return None
                if len(self._gather(place, Accept(place, ballot, view))) >= majority_of(self._servers):
                    for server in self._in_order():
                        self._answer(server, Learn(place, view))
                    return view
            if deadline.passed:
                raise OSError(f"view {number} of place {place} could not be decided for {_PATIENCE:g} s")
            time.sleep(_PAUSE * secrets.randbelow(1000) / 1000)

    def _ballot(self) -> int:
        """Return a ballot that no other server makes, larger than all that were seen."""
        with self._mutex:
            self._highest = (self._highest // self._servers + 1) * self._servers + self._server
            return self._highest

    def _gather(self, place: int, request: Prepare | Accept) -> list[Vote]:
        """Ask until a majority has granted the request, and return the votes that did.

        Raises:
            OSError: no majority takes part.
        """
        granted, takes_part = [], 0
        for server in self._in_order():
            vote = self._answer(server, request)
            if not isinstance(vote, Vote):
                continue
            if vote.decided:
                self._voter.answer(Learn(place, vote.decided))
            takes_part += vote.ballot != ABSTAINS
            with self._mutex:
                self._highest = max(self._highest, vote.ballot)
            if vote.granted:
                granted.append(vote)
                if len(granted) == majority_of(self._servers):
                    break
        if takes_part < majority_of(self._servers):
            raise OSError(f"only {takes_part} of {self._servers} memory servers vote")
        return granted

    def _in_order(self) -> list[int]:
        return sorted(range(self._servers), key=lambda each: (each in self._silent, each != self._server))

    def _answer(self, server: int, request: VoteRequest) -> object:
        if server == self._server:
            return self._voter.answer(request)
        try:
            answer = self._ask(server, request)
        except OSError:
            self._silent.add(server)
            return None
        self._silent.discard(server)
        return answer
