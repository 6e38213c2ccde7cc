"""What only RDMA can show: one-sided reads, lost links, keys that die, two rails, two hosts. See guest.sh."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import psutil
import pytest
from tests.box.acts import FIRST, add, exchange
from tests.box.cutting import Cut, CuttingProxy
from tests.box.parties import party_of
from tests.rdma.hosts import packets, process, queue_pairs, received_bytes, server
from tests.rdma.roles import TIMEOUT, TOKEN
from tests.rdma.training import BATCH, INTERVAL, SIZE, STEPS, WORKERS, train

from modum.box import Box, Server
from modum.box.protocol.limits import CHUNK, HEADER_BYTES
from modum.errors import BufferNotFoundError, ConnectionLostError, DeadlineError, TransportError
from modum.observe import rdma
from modum.testing.transport import whole_numbers


@pytest.fixture(scope="module")
def there() -> Iterator[tuple[BaseProcess, str]]:
    """A server in a process of its own, with the other ends of both pairs of devices: (the process, its address)."""
    with server("rxb:1,rxd:1") as one:
        yield one


@pytest.fixture
def here() -> Iterator[Server]:
    with Server(memory=64 << 20, grace=0.2) as one:
        yield one


def over_rdma(address: str, *, token: str | None = None, timeout: float = TIMEOUT) -> Box:
    return Box.connect(address, transport="rdma", token=token, timeout=timeout)


def route(box: Box) -> str:
    return box.routes[0]


def cpu_seconds(child: BaseProcess) -> float:
    times = psutil.Process(child.pid).cpu_times()
    return times.user + times.system


def test_reads_go_through_the_device_and_leave_the_server_asleep(
    there: tuple[BaseProcess, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UCX_NET_DEVICES", "rxa:1")
    child, address = there
    rounds, x = 10, whole_numbers(4 * CHUNK // 4)
    used = {}
    for transport in ("rdma", "tcp"):
        with Box.connect(address, transport=transport, token=TOKEN, timeout=TIMEOUT) as box:
            buffer = box.create(transport, x.size)
            buffer.write(x)
            out = buffer.read()
            before, sent, came = cpu_seconds(child), packets("rxb"), received_bytes("va")
            for _ in range(rounds):
                buffer.read(out)
            used[transport] = cpu_seconds(child) - before
            if transport == "rdma":
                assert route(box) == "rdma rxa:1 to rxb:1"
                sent, came = packets("rxb") - sent, received_bytes("va") - came
            np.testing.assert_array_equal(out, x)
    print(
        f"rdma: {rounds * x.nbytes} bytes read: {came} bytes came through va in {sent} packets of rxb; the server's CPU"
        f" worked {used['rdma']:.2f} s, {used['tcp']:.2f} s for as many over tcp"
    )
    assert came > rounds * x.nbytes
    assert sent > rounds * x.nbytes / 4096
    assert used["rdma"] <= 0.02 + used["tcp"] / 10


def test_adds_and_exchanges_go_through_the_device(here: Server) -> None:
    x = whole_numbers(2 * CHUNK // 4)
    with over_rdma(here.address) as box:
        buffer = box.create("b", x.size)
        before, tcp = packets("rxa") + packets("rxc"), received_bytes("lo")
        buffer.add(x)
        buffer.exchange(x, 0.5)
        assert packets("rxa") + packets("rxc") - before > 3 * x.nbytes / 4096
        assert received_bytes("lo") - tcp < x.nbytes / 10  # the doorbells, and nothing else


def test_the_doctor_reads_through_the_devices() -> None:
    version, modules, trouble = rdma.look_at_ucx()
    assert (version is not None, "ib" in modules, trouble) == (True, True, None)
    assert [rdma.why_not_read(device) for device in ("rxa:1", "rxd:1")] == [None, None]
    assert "UCX cannot use it" in (rdma.why_not_read("rxz:1") or "")


def test_two_rails_are_both_used(there: tuple[BaseProcess, str]) -> None:
    x = whole_numbers(CHUNK // 4)
    _, address = there
    with ExitStack() as boxes:
        before = packets("rxa"), packets("rxc")
        pair = [boxes.enter_context(over_rdma(address, token=TOKEN)) for _ in range(2)]
        for name, box in zip("ab", pair, strict=True):
            box.create(name, x.size).write(x)
            np.testing.assert_array_equal(box.open(name).read(), x)
        assert {route(box) for box in pair} == {"rdma rxa:1 to rxb:1", "rdma rxc:1 to rxd:1"}
        assert packets("rxa") - before[0] > x.nbytes / 4096
        assert packets("rxc") - before[1] > x.nbytes / 4096


def test_a_transport_that_was_asked_for_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setenv("UCX_NET_DEVICES", "rxz:1")
        server_without = Server()
    with server_without:
        with pytest.raises(TransportError, match="the server cannot: no active port among UCX_NET_DEVICES=rxz:1"):
            over_rdma(server_without.address)


def test_devices_that_cannot_be_used_are_told_where_nobody_asked_for_them(
    here: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("modum.box.transport.local.local_host", lambda: "another")
    monkeypatch.setenv("UCX_TLS", "tcp")  # which UCX cannot have over this device
    with Box.connect(here.address, timeout=TIMEOUT) as box:
        assert box.transports == ("tcp",)
    assert f"box: {here.address} not via rdma, though nothing spoke against it" in caplog.text


# before, inside and behind the doorbell of a chunk in the middle, and around the first and the last reply
@pytest.mark.parametrize(
    ("direction", "frame", "octets"),
    [("up", 2, 0), ("up", 2, 10), ("up", 2, HEADER_BYTES), ("down", 0, 0), ("down", 6, 10), ("down", 6, HEADER_BYTES)],
)
def test_adds_and_exchanges_count_once_when_the_connection_is_cut(
    here: Server, direction: str, frame: int, octets: int
) -> None:
    act = add if (direction, octets) == ("up", 10) else exchange
    # LINK is one request more than over TCP
    with CuttingProxy(here.address, [Cut(direction, FIRST + 1 + frame, octets)]) as proxy:
        with over_rdma(proxy.address) as box:
            act(box)
            box.delete("b")
        assert not proxy.left, "the cut was not reached"


def test_adds_count_once_when_the_link_goes_down_and_up_again(
    there: tuple[BaseProcess, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UCX_NET_DEVICES", "rxa:1")
    caplog.set_level("INFO", "modum.box")
    x = whole_numbers(2 * CHUNK // 4)
    with over_rdma(there[1], token=TOKEN) as box:
        buffer = box.create("link", x.size)
        buffer.add(x)
        subprocess.run(["ip", "link", "set", "vb", "down"], check=True)
        try:
            thread = threading.Thread(target=buffer.add, args=(x,))
            thread.start()
            while "the link rxa:1 to rxb:1 has failed" not in caplog.text and thread.is_alive():
                time.sleep(0.01)
        finally:
            subprocess.run(["ip", "link", "set", "vb", "up"], check=True)
        thread.join()
        np.testing.assert_array_equal(buffer.read(), 2 * x)


def test_a_chunk_that_a_dead_client_left_half_changed_is_read_through_the_server(here: Server) -> None:
    x = whole_numbers(CHUNK // 4)
    with over_rdma(here.address) as box:
        buffer = box.create("b", x.size)
        buffer.write(x)
        with party_of(here.address, "b") as party:
            party.mapping.begin(0, 4)  # and never ends
        np.testing.assert_array_equal(buffer.read(), x)
        assert box.statistics().servers[0].operations["read"] == 1
        buffer.add(x)
        np.testing.assert_array_equal(buffer.read(), 2 * x)
        assert box.statistics().servers[0].operations["read"] == 1


def test_a_reader_of_a_buffer_that_is_deleted_learns_it_and_reads_nothing_else(here: Server) -> None:
    x = np.ones(4 * CHUNK // 4, np.float32)
    with over_rdma(here.address) as box, over_rdma(here.address) as other:
        box.create("b", x.size).write(x)
        read = threading.Event()
        errors: list[Exception] = []

        def reader() -> None:
            buffer = other.open("b")
            try:
                while True:
                    np.testing.assert_array_equal(buffer.read(), x)
                    read.set()
            except BufferNotFoundError as error:
                errors.append(error)

        thread = threading.Thread(target=reader)
        thread.start()
        assert read.wait(TIMEOUT)
        box.delete("b")
        thread.join()
        assert len(errors) == 1
        new = other.create("b", x.size)
        np.testing.assert_array_equal(new.read(), 0 * x)


def test_what_a_killed_client_was_told_is_there_and_its_queue_pairs_are_gone(here: Server) -> None:
    before = queue_pairs()
    with over_rdma(here.address) as box:
        alone = queue_pairs()
        buffer = box.create("b", CHUNK // 2)
        with process("adder", here.address) as (child, way):
            acknowledged = 0
            while acknowledged < 5:
                acknowledged = way.recv()
            child.kill()
            child.join()
            while way.poll():
                try:
                    acknowledged = way.recv()
                except EOFError:
                    break
        while here.statistics().clients > 1:
            time.sleep(0.01)
        assert set(np.unique(buffer.read())) <= {acknowledged, acknowledged + 1}
        while queue_pairs() > alone:
            time.sleep(0.01)
    assert queue_pairs() == before


def test_a_stopped_server_is_read_and_a_killed_one_is_named() -> None:
    x = np.ones(10, np.float32)
    with server("rxb:1,rxd:1") as (child, address):
        with over_rdma(address, token=TOKEN, timeout=8) as box:
            buffer = box.create("b", 10)
            buffer.add(x)
            np.testing.assert_array_equal(buffer.read(), x)
            os.kill(child.pid or 0, signal.SIGSTOP)
            while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:
                pass
            np.testing.assert_array_equal(buffer.read(), x)  # nobody there has to do anything
            with pytest.raises(DeadlineError, match=f"add on buffer 'b': memory server {address} did not answer"):
                buffer.add(x)
            os.kill(child.pid or 0, signal.SIGCONT)
            assert buffer.read().max() <= 2
            child.kill()
            child.join()
            for act in (lambda: buffer.add(x), buffer.read):
                with pytest.raises((ConnectionLostError, DeadlineError), match=f"memory server {address}"):
                    act()


def test_two_hosts_train_together_to_the_same_bits_as_over_tcp(here: Server) -> None:
    with server("rxb:1,rxd:1", host="A", address="10.1.0.1") as (_, address), ExitStack() as stack:
        before = packets("rxa") + packets("rxc"), packets("rxb") + packets("rxd")
        workers = [stack.enter_context(process("worker", address, str(rank), host="B")) for rank in range(2)]
        results = [way.recv() for _, way in workers]
        for child, _ in workers:
            child.join()
            assert child.exitcode == 0
        put, got = packets("rxa") + packets("rxc") - before[0], packets("rxb") + packets("rxd") - before[1]
    over_tcp: list[dict[str, Any]] = []

    def work(rank: int) -> None:
        with Box.connect(here.address, transport="tcp", timeout=TIMEOUT) as box:
            over_tcp.append(train(box, rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = results[0]
    print(
        f"rdma: two hosts trained together: loss {result['before']:.0f} to {result['after']:.0f}, {put} + {got} packets"
    )
    assert [each.pop("transport") for each in (*results, *over_tcp)] == ["rdma", "rdma", "tcp", "tcp"]
    assert results + over_tcp == 4 * [result]
    assert result["after"] < result["before"] / 100
    assert result["samples"] == [WORKERS * STEPS * BATCH] * 8
    assert result["version"] == WORKERS * STEPS // INTERVAL
    assert min(put, got) > WORKERS * STEPS // INTERVAL * 4 * SIZE / 4096
