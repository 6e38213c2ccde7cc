"""A server that is stopped on purpose is lost like any other: nothing is lost with it."""

import threading

import pytest
from tests.box.replication.standing_in import PATIENCE, replicated

from modum.box.server.replication.log import Log
from modum.waiting import poll


def test_a_server_that_is_stopped_leaves_its_place_to_its_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modum.box.client.connection.LOST_SECONDS", 3.0)
    stopping, entered, beat = threading.Event(), threading.Event(), Log.beat

    def beat_while_it_stops(self: Log) -> None:
        beat(self)
        if stopping.is_set() and threading.current_thread().name == "modum-place-0":
            entered.set()
            poll(
                lambda: self.over and not self.linked,
                timeout=PATIENCE,
                every=0.001,
                error=lambda: AssertionError("it goes on"),
            )

    monkeypatch.setattr(Log, "beat", beat_while_it_stops)
    with replicated() as (servers, box):
        names = [f"name {number}" for number in range(12)]  # whichever server they lie on
        for name in names:
            box.counter(name).add(7)
        stopping.set()
        assert entered.wait(PATIENCE)
        servers.lose(servers.primary(0))
        assert [box.counter(name).value for name in names] == [7] * 12
