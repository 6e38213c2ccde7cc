"""Contract 7: with replicas nothing that was acknowledged is lost with one server, and clients notice but time."""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.box.replication.standing_in import PATIENCE, Servers, replicated

from modum.box import Box, Server
from modum.box.protocol.limits import CHUNK, WINDOW
from modum.box.server.replication.ring import Replication
from modum.errors import ConnectionLostError, MismatchError, TransportError
from modum.testing.transport import CHECKS, QUICK
from modum.waiting import poll

SIZE = 3 * CHUNK // 2  # elements: some chunks on every server


@pytest.fixture(scope="module")
def kept() -> Any:
    """Servers that no test of this module ends."""
    with Servers(memory=128 << 20) as servers:
        yield servers


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_replicas_keep_the_contract(kept: Servers, check: Any) -> None:
    if check.__name__ == "check_list_and_statistics":  # it counts all that was ever done
        with replicated() as (_, box):
            check(box, QUICK)
        return
    with Box.connect(kept.addresses, timeout=30) as box:
        check(box, QUICK)
        for info in box.list():
            box.delete(info.name)


def test_every_server_may_be_lost_one_after_the_other_while_clients_go_on() -> None:
    with replicated() as (servers, box):
        buffer = box.create("sum", SIZE)
        stopping = threading.Event()
        done = [0, 0]

        def add(number: int) -> None:
            with Box.connect(servers.addresses, timeout=60) as own:
                target, counter = own.open("sum"), own.counter("adds")
                while not stopping.is_set():
                    target.add(np.ones(SIZE, np.float32))
                    counter.add(1)
                    done[number] += 1

        threads = [threading.Thread(target=add, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for index in range(servers.count):
            before = sum(done)
            servers.lose(index)
            servers.wait_until_backed()
            servers.start(index)
            servers.wait_until_whole()
            assert sum(done) > before
        stopping.set()
        for thread in threads:
            thread.join()
        total = sum(done)
        assert box.counter("adds").value == total
        np.testing.assert_array_equal(buffer.read(), np.full(SIZE, total, np.float32))


def test_everything_is_there_after_the_loss_of_whoever_serves_it() -> None:
    with replicated() as (servers, box):
        rng = np.random.default_rng(1)
        weights = box.create("weights", SIZE, meta={"model": "m"})
        brain = box.create("bfloat16", SIZE, "bfloat16")
        g, x = (rng.standard_normal(SIZE).astype(np.float32) for _ in range(2))
        weights.write(g)
        weights.exchange(x, 0.25)
        weights.exchange(rng.standard_normal(SIZE).astype(np.float32), 0.25, compression="int8")
        brain.add(np.arange(SIZE, dtype=np.uint16))
        brain.scale(0.5)
        copy = box.create("copy", SIZE)
        copy.axpy(2.0, weights)
        names = [f"name {number}" for number in range(12)]  # whichever server they lie on
        for name in names:
            box.counter(name).add(7)
            box.value(name).set({"of": name})
            queue = box.queue(name, 4)
            assert [queue.take(), queue.take(), queue.take()] == [0, 1, 2]
            queue.done(0)
            queue.give_back(1)
        leases = [box.lock(name, ttl=120) for name in names]
        box.delete("copy")
        before = weights.read(), brain.read(), weights.version
        servers.lose(servers.primary(0))
        servers.wait_until_backed()
        np.testing.assert_array_equal(weights.read(), before[0])
        np.testing.assert_array_equal(brain.read(), before[1])
        assert weights.version == before[2]
        assert weights.meta == {"model": "m"}
        assert [info.name for info in box.list()] == ["bfloat16", "weights"]
        for name, lease in zip(names, leases, strict=True):
            assert box.counter(name).value == 7
            assert box.value(name).get() == {"of": name}
            queue = box.queue(name, 4)
            queue.done(2)  # still held
            assert [queue.take(), queue.take()] == [1, 3]
            assert (queue.statistics().taken, queue.statistics().done) == (2, 2)
            lease.renew()
            with Box.connect(servers.addresses, timeout=30) as other, pytest.raises(TimeoutError, match="still held"):
                other.lock(name, timeout=0)


def test_a_server_that_comes_later_is_brought_up_while_clients_work() -> None:
    with replicated() as (servers, box):
        buffer = box.create("sum", 16 * SIZE)
        lost = servers.backup(0)
        servers.lose(lost)
        x = np.ones(16 * SIZE, np.float32)
        stopping = threading.Event()
        adds = 0

        def work() -> None:
            nonlocal adds
            while not stopping.is_set():
                buffer.add(x)
                adds += 1

        thread = threading.Thread(target=work)
        thread.start()
        servers.start(lost)
        servers.wait_until_whole()
        stopping.set()
        thread.join()
        servers.lose(servers.primary(0))
        np.testing.assert_array_equal(buffer.read(), np.full(16 * SIZE, adds, np.float32))


def test_who_waits_is_woken_by_the_server_that_takes_over() -> None:
    with replicated() as (servers, box):
        counter = box.counter("c")
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(counter.wait(5, timeout=60)))
        thread.start()
        for _ in range(4):
            counter.add(1)
        for place in range(servers.count):
            if servers.primary(place) == 0:
                servers.lose(0)
                break
        with Box.connect(servers.addresses, timeout=60) as other:
            other.counter("c").add(1)
        thread.join()
        assert seen == [5]


def test_a_client_that_comes_while_a_server_is_missing_finds_its_place() -> None:
    with replicated() as (servers, box):
        box.create("b", SIZE).write(np.full(SIZE, 3, np.float32))
        servers.lose(0)
        with Box.connect(servers.addresses, timeout=60) as late:
            np.testing.assert_array_equal(late.open("b").read(), np.full(SIZE, 3, np.float32))
            assert [server.stand is not None for server in late.statistics().servers] == [True] * 3


def test_what_is_acknowledged_first_is_at_two_servers_already() -> None:
    servers = Servers()
    for index in range(servers.count):
        servers.start(index)
    try:
        with Box.connect(servers.addresses, timeout=60) as box:
            box.counter("c").add(5)
            box.create("b", SIZE).write(np.full(SIZE, 3, np.float32))
            servers.lose(0)
            assert box.counter("c").value == 5
            np.testing.assert_array_equal(box.open("b").read(), np.full(SIZE, 3, np.float32))
    finally:
        for server in servers.servers.values():
            server.close()


def test_a_stranger_on_the_port_of_a_lost_server_is_passed_over() -> None:
    with replicated() as (servers, box):
        buffer = box.create("b", SIZE)
        servers.lose(0)
        port = int(servers.addresses[0].rpartition(":")[2])
        with Server(port=port):
            buffer.add(np.ones(SIZE, np.float32))
            np.testing.assert_array_equal(buffer.read(), np.ones(SIZE, np.float32))


def test_two_servers_lost_at_one_time_are_too_many_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modum.box.client.connection.LOST_SECONDS", 1.5)
    with replicated() as (servers, box):
        buffer = box.create("b", SIZE)
        servers.lose(0)
        servers.lose(1)
        with pytest.raises(ConnectionLostError, match=r"could not be reached for \d\.\d s: .*(\n|.)*HINT"):
            buffer.add(np.ones(SIZE, np.float32))


def test_what_clients_keep_under_way_is_given_back_at_the_backup_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modum.box.server.core.MIN_WORKING", 2 * WINDOW * CHUNK)  # of two slots
    elements = 3 * WINDOW * CHUNK // 4  # a whole window of chunks on every server
    ones = np.ones(elements, np.float32)
    with replicated(memory=32 << 20) as (servers, box), ExitStack() as stack:
        buffer = box.create("sum", elements)
        for _ in range(4):
            idle = stack.enter_context(Box.connect(servers.addresses, timeout=30))
            own = idle.open("sum")
            own.add(ones)
            own.read()  # the last that is said on every connection is that all has arrived
        servers.lose(0)
        with Box.connect(servers.addresses, timeout=30) as late:
            late.open("sum").add(ones)
        np.testing.assert_array_equal(buffer.read(), 5 * ones)
        assert all(server.working <= 2 * WINDOW * CHUNK for server in box.statistics().servers)


def test_memory_with_replicas_is_neither_mapped_nor_reached_one_sidedly(kept: Servers) -> None:
    with pytest.raises(TransportError, match=r"transport 'local' cannot be used .* replicas"):
        Box.connect(kept.addresses, transport="local")
    with Box.connect(kept.addresses) as box:
        assert box.transports == ("tcp", "tcp", "tcp")


def test_a_server_with_a_smaller_pool_does_not_stand_in() -> None:
    with Servers() as servers:
        small = servers.backup(0)
        servers.lose(small)
        servers.wait_until_backed()
        servers.start(small, memory=128 << 20)
        poll(
            lambda: all(server.votes for server in servers.servers.values()),
            timeout=PATIENCE,
            every=0.05,
            error=lambda: AssertionError("it does not vote"),
        )
        servers.lose(servers.backup(0))
        (large,) = set(servers.servers) - {small}
        poll(
            lambda: len(servers.servers[large].stands) == servers.count,
            timeout=PATIENCE,
            every=0.05,
            error=lambda: AssertionError("not all places are served"),
        )
        assert {stand.backup for stand in servers.servers[large].stands.values()} == {-1}


def test_another_server_is_brought_up_where_one_has_too_little_memory(caplog: pytest.LogCaptureFixture) -> None:
    servers = Servers()
    try:
        for index in range(servers.count):
            servers.start(index, memory=(128 if index == 1 else 256) << 20)
        servers.wait_until_whole()  # the small one is the first that is asked for place 0
        assert servers.backup(0) == 2
        assert "cannot stand in for its primary" in caplog.text
        assert "HINT: give all memory servers of the box the same --memory" in caplog.text
    finally:
        for server in servers.servers.values():
            server.close()


def test_servers_that_have_forgotten_too_much_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("modum.box.server.replication.ring._TELL_SECONDS", 0.2)
    with Servers() as servers:
        for index in (1, 2):
            servers.lose(index)
        for index in (1, 2):
            servers.start(index)
        told = "HINT: end all memory servers of the box, and start them again"
        poll(lambda: told in caplog.text, timeout=PATIENCE, every=0.05, error=lambda: AssertionError(caplog.text))
        servers.lose(0)
        servers.start(0)
        servers.wait_until_whole()


def test_what_cannot_have_replicas_is_refused() -> None:
    addresses = ["10.0.0.5:7500", "10.0.0.6:7500", "10.0.0.7:7500"]
    with pytest.raises(ValueError, match="replicas take at least 3 memory servers, not 2"):
        Replication(addresses[:2], 0)
    with pytest.raises(ValueError, match="index must be from 0 to 2, not 3"):
        Replication(addresses, 3)
    with pytest.raises(ValueError, match=r"10.0.0.5:7500 stands in the list twice(.|\n)*HINT"):
        Replication([addresses[0], *addresses[:2]], 0)
    with pytest.raises(ValueError, match="writes and restores no snapshots"):
        Server(replication=Replication(addresses, 0), restore=Path("snapshots"))


def test_servers_that_were_told_different_lists_do_not_begin(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("modum.box.server.replication.ring._TELL_SECONDS", 0.2)
    servers = Servers()
    for index in range(servers.count):
        servers.start(index, replication=Replication([*reversed(servers.addresses)] if index else servers.addresses, 0))
    try:
        told = "HINT: give every memory server the same --box, in the same order"
        poll(lambda: told in caplog.text, timeout=PATIENCE, every=0.05, error=lambda: AssertionError(caplog.text))
        assert "cannot vote yet, so no client is served" in caplog.text
        assert not any(server.votes for server in servers.servers.values())
    finally:
        for server in servers.servers.values():
            server.close()


def test_servers_alone_are_not_taken_for_others() -> None:
    with Server() as one, Server() as two, Box.connect([one.address, two.address]) as box:
        assert box.statistics().servers[0].stand is None
        two.close()
        with pytest.raises((ConnectionLostError, MismatchError), match=two.address):
            Box.connect([one.address, two.address], timeout=5)
