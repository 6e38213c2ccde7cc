"""Whatever is lost, late or started again: for one view of a place no two are ever decided."""

from random import Random

import pytest

from modum.box.protocol.replication import Accept, Ask, Member, Prepare, View, VoteRequest
from modum.box.server.replication import council as council_module
from modum.box.server.replication.council import Council
from modum.box.server.replication.voter import Voter

PLACE = 0


class Ended(Exception):  # noqa: N818 - no error: the process is not there any more
    """The server that asks was started again meanwhile."""


class NoTime:
    """Stands for `time`, and for a deadline of so many looks."""

    def __init__(self, _: float = 0.0) -> None:
        self._looks = 0

    @property
    def passed(self) -> bool:
        self._looks += 1
        return self._looks > 20

    @staticmethod
    def sleep(seconds: float) -> None:
        """Do not wait."""


class Game:
    """Servers that propose views while others do, messages that are lost, servers that are started again."""

    def __init__(self, seed: int) -> None:
        random = self.random = Random(seed)  # noqa: S311 - of a game
        self.count = random.choice([3, 3, 5])
        self.runs = [0] * self.count
        self.voters = [Voter(f"{server}.0", self.count) for server in range(self.count)]
        self.decided: dict[int, View] = {}
        self.loss = random.choice([0, 0.05, 0.2])
        self.restarts = random.choice([0, 0.01, 0.05])
        self.meanwhile = random.choice([0, 0.1])
        self.depth = 0

    def note(self, view: View) -> None:
        assert self.decided.setdefault(view.number, view) == view

    def restart(self, server: int) -> None:
        if all(voter.votes for voter in self.voters):  # one at a time
            self.runs[server] += 1
            self.voters[server] = Voter(f"{server}.{self.runs[server]}", self.count)

    def propose(self, server: int) -> None:
        run, random = self.runs[server], self.random

        def ask(other: int, request: VoteRequest) -> object:
            if random.random() < self.restarts:
                self.restart(random.randrange(self.count))
            if self.runs[server] != run:
                raise Ended
            if random.random() < self.loss:
                raise OSError
            answer = self.voters[other].answer(request)
            if self.depth < 2 and random.random() < self.meanwhile:
                self.depth += 1
                self.propose(random.randrange(self.count))
                self.depth -= 1
            if self.runs[server] != run:
                raise Ended
            if random.random() < self.loss:
                raise OSError
            return answer

        council = Council(server, self.count, self.voters[server], ask)
        try:
            if not self.voters[server].votes:
                council.meet()
                return
            latest = council.latest(PLACE)
            if latest:
                self.note(latest)
            wish = View(latest.number + 1 if latest else 1, Member(server, str(random.random())))
            self.note(council.decide(PLACE, wish))
        except (OSError, Ended):
            pass

    def play(self) -> None:
        for server in [*range(self.count), *range(self.count)]:
            self.propose(server)
        for _ in range(30):
            self.propose(self.random.randrange(self.count))
        for voter in self.voters:
            if view := voter.decided(PLACE):
                self.note(view)


def test_no_two_views_of_one_number_are_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(council_module, "time", NoTime)
    monkeypatch.setattr(council_module, "Deadline", NoTime)
    decided = 0
    for seed in range(400):
        game = Game(seed)
        game.play()
        decided += len(game.decided)
    assert decided > 4000


def founded() -> list[Voter]:
    """Three voters that vote."""
    voters = [Voter(f"{server}.0", 3) for server in range(3)]
    for voter in voters:
        others = {number: each.answer(Ask()) for number, each in enumerate(voters) if each is not voter}
        assert voter.enter(others)  # type: ignore[arg-type]  # the answer to Ask is a standing
    return voters


def test_who_was_started_again_leaves_the_next_view_to_the_others() -> None:
    voters = founded()
    view = View(1, Member(0, "0.0"))
    for voter in voters[:2]:
        assert voter.answer(Prepare(PLACE, 1, 3)).granted  # type: ignore[union-attr]
        assert voter.answer(Accept(PLACE, 3, view)).granted  # type: ignore[union-attr]
    again = Voter("0.1", 3)
    one = {1: voters[1].answer(Ask())}
    assert not again.enter(one)  # type: ignore[arg-type]  # it may have voted with the other one
    assert again.enter({**one, 2: voters[2].answer(Ask())})  # type: ignore[dict-item]
    assert not again.answer(Prepare(PLACE, 1, 9)).granted  # type: ignore[union-attr]
    assert not again.answer(Prepare(PLACE, 2, 9)).granted  # type: ignore[union-attr]
    assert again.answer(Prepare(PLACE, 3, 9)).granted  # type: ignore[union-attr]
    assert again.answer(Prepare(1, 2, 9)).granted  # type: ignore[union-attr]  # of another place


def test_the_first_servers_need_to_see_all_others_to_begin() -> None:
    voters = [Voter(f"{server}.0", 3) for server in range(3)]
    assert not voters[0].enter({1: voters[1].answer(Ask())})  # type: ignore[dict-item]
    assert not voters[0].votes
