"""Counters, leases and work queues through the box; what becomes of those whose holder dies."""

import threading
import time
from copy import copy
from typing import Any

import numpy as np
import pytest
from tests.box.cutting import CuttingProxy
from tests.box.processes import client_process, line_of

from modum.box import Box, Server
from modum.errors import DeadlineError, LeaseLostError

HOLDER = """
import sys
from modum.box import Box
box = Box.connect(sys.argv[1], transport=sys.argv[2])
lease = box.lock("lease")
queue = box.queue("work", 3)
print(queue.take())
sys.stdin.read()
"""


def test_fetch_and_add_gives_every_number_once(box: Box) -> None:
    taken: list[int] = []

    def take() -> None:
        with Box.connect(box.servers, transport=box.transports[0]) as mine:
            counter = mine.counter("next")
            taken.extend(counter.add(1) for _ in range(50))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert box.counter("next").wait(200) == 200
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(200))
    assert box.counter("next").value == 200


def test_waiting_for_a_counter_ends_with_an_error_that_says_what_it_is(box: Box) -> None:
    box.counter("c").add(3)
    with pytest.raises(DeadlineError, match=r"counter 'c': it is 3, not 4 after 0.01 s \(memory server 127"):
        box.counter("c").wait(4, timeout=0.01)


def test_a_lease_keeps_others_out_until_it_is_released(box: Box) -> None:
    with Box.connect(box.servers, transport=box.transports[0]) as other:
        with box.lock("create"):
            assert [(lease.name, lease.holder) for lease in other.leases("cre")] == [("create", box.session)]
            with pytest.raises(DeadlineError, match=f"lease 'create' is still held by session {box.session}"):
                other.lock("create", timeout=0.01)
        with other.lock("create", timeout=0.01):
            pass
    assert box.leases() == []


def test_a_lease_that_is_not_renewed_is_lost(box: Box) -> None:
    lease = box.lock("l", ttl=0.05)
    lease.renew()
    with box.lock("l", timeout=5):
        with pytest.raises(LeaseLostError, match="'l'"):
            lease.renew()
        with pytest.raises(LeaseLostError, match="'l'"):
            lease.release()


def test_nothing_is_left_of_a_lease_that_was_released_or_is_known_to_be_lost(box: Box) -> None:
    with box.lock("l", ttl=60) as lease:
        assert 0 < lease.left <= 60
    assert lease.left == 0
    lost = box.lock("l", ttl=60)
    copy(lost).release()  # what another thread does with it, this object does not know
    with pytest.raises(LeaseLostError, match="'l'"):
        lost.renew()
    assert lost.left == 0


@pytest.mark.parametrize("number", [1.0, 0.5, "1", None, float("nan")])
def test_what_is_counted_is_a_whole_number(box: Box, number: Any) -> None:
    of_numpy: Any = np.int64
    queue = box.queue("q", of_numpy(2))
    assert queue.take() == 0
    for act in (
        lambda: box.counter("c").add(number),
        lambda: box.counter("c").wait(number, timeout=0),
        lambda: queue.done(number),
        lambda: box.queue("r", number),
    ):
        with pytest.raises(TypeError):
            act()
    queue.done(of_numpy(0))
    assert queue.statistics().done == 1
    assert box.counter("c").wait(of_numpy(0)) == 0
    assert box.lock("l", ttl=of_numpy(1)).left <= 1


def test_a_killed_process_loses_its_lease_and_its_work(client: Box) -> None:
    queue = client.queue("work", 3)
    with client_process(HOLDER, client.servers[0], client.transports[0]) as process:
        assert line_of(process) == "0"
        assert queue.take() == 1
        with pytest.raises(DeadlineError):
            client.lock("lease", timeout=0.01)
        process.kill()
        with client.lock("lease", timeout=10):
            assert queue.take() == 0
    assert queue.take() == 2
    for item in (0, 1, 2):
        queue.done(item)
    assert queue.take() is None


def test_closing_a_box_gives_its_work_back_at_once(box: Box) -> None:
    queue = box.queue("work", 1)
    with Box.connect(box.servers, transport=box.transports[0]) as other:
        assert other.queue("work", 1).take() == 0
        with pytest.raises(DeadlineError, match="others still hold its last items"):
            queue.take(timeout=0.01)
    assert queue.take(timeout=5) == 0
    queue.done(0)
    assert (queue.statistics().done, queue.take()) == (1, None)


def test_who_waits_for_the_last_item_learns_that_all_is_done(box: Box) -> None:
    queue = box.queue("work", 1)
    with Box.connect(box.servers, transport=box.transports[0]) as other:
        assert other.queue("work", 1).take() == 0
        answers: list[int | None] = []
        thread = threading.Thread(target=lambda: answers.append(queue.take()))
        thread.start()
        other.queue("work", 1).done(0)
        thread.join()
    assert answers == [None]


def test_a_session_that_was_away_too_long_cannot_finish_its_work(server: Server) -> None:
    with CuttingProxy(server.address, []) as proxy, Box.connect(proxy.address, transport="tcp") as box:
        queue = box.queue("work", 1)
        assert queue.take() == 0
        proxy.cut_all()  # and the client does not come back within the grace
        while server.statistics().clients:
            pass
        with Box.connect(server.address, transport="tcp") as other:
            assert other.queue("work", 1).take() == 0
            with pytest.raises(LeaseLostError, match="item 0"):
                queue.done(0)


def test_blocked_calls_do_not_hold_up_other_threads_of_the_client(box: Box) -> None:
    thread = threading.Thread(target=lambda: box.counter("go").wait(1))
    thread.start()
    start = time.monotonic()
    for _ in range(20):
        box.counter("other").add(1)
    box.counter("go").add(1)
    thread.join()
    assert time.monotonic() - start < 5
