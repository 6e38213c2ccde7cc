"""Who waits is woken when what it waits for has changed, and for nothing else."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from modum.box import Box, Server
from modum.box.server.waiting import WaitingRoom


class Asker:
    """Somebody who asks."""

    holder = "a"
    gone = False

    def check(self) -> None:
        if self.gone:
            raise ConnectionAbortedError


def test_only_who_waits_for_it_looks_again() -> None:
    room, looked, there = WaitingRoom(lambda: 0.0), list[str](), set[str]()

    def ready(name: str) -> Callable[[], bool]:
        def look() -> bool:
            looked.append(name)
            return name in there

        return look

    with ThreadPoolExecutor(2) as threads:
        waits = {name: threads.submit(room.wait_until, ("k", name), ready(name), 60, Asker()) for name in "ab"}
        while len(looked) < 2:
            pass
        for name in "ab":
            with room.mutex:
                looked.clear()
                there.add(name)
                room.wake(("k", name))
            assert waits[name].result(60)
            assert looked == [name]


def test_a_wait_ends_when_nobody_asks_any_more_and_when_the_server_stops() -> None:
    room, asker, looked = WaitingRoom(lambda: 0.0), Asker(), threading.Semaphore(0)

    def ready() -> bool:
        looked.release()
        return False

    with ThreadPoolExecutor(2) as threads:
        wait = threads.submit(room.wait_until, ("k", 1), ready, 60, asker)
        looked.acquire()
        with room.mutex:
            asker.gone = True
            room.wake_all()
        with pytest.raises(ConnectionAbortedError):
            wait.result(60)
        wait = threads.submit(room.wait_until, ("k", 1), ready, 60, Asker())
        looked.acquire()
        room.stop()
        assert wait.result(60) is False


@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_a_version_that_a_client_raises_wakes_who_waits_for_it(server: Server, transport: str) -> None:
    with (
        Box.connect(server.address, transport="tcp", timeout=60) as waiting,
        Box.connect(server.address, transport=transport, timeout=60) as other,
        ThreadPoolExecutor(8) as threads,
    ):
        buffer = other.create("b", 8)
        waits = [threads.submit(waiting.open("b").wait, version, 60) for version in (1, 1, 2, 3)]
        for _ in range(3):
            buffer.add(np.ones(8, np.float32))
        assert [wait.result(60) >= version for wait, version in zip(waits, (1, 1, 2, 3), strict=True)] == [True] * 4
