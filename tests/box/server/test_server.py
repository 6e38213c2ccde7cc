"""A server's life: its pool, its memory, the identity of its box."""

import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import psutil
import pytest
from tests.box.cutting import CuttingProxy
from tests.box.test_faults import server_process

from modum.box import Box, Server
from modum.box.protocol.limits import CHUNK
from modum.errors import MismatchError

ASKS: dict[str, Callable[[Box], object]] = {
    "create": lambda box: box.create("w", 8),
    "open": lambda box: box.open("w"),
    "delete": lambda box: box.delete("w"),
    "counter": lambda box: box.counter("c").add(1),
    "lease": lambda box: box.lock("l"),
    "queue": lambda box: box.queue("q", 1),
    "value": lambda box: box.value("v").set(1),
    "a name without a letter": lambda box: box.counter("").add(1),
    "list": lambda box: box.list(),
    "leases": lambda box: box.leases(),
}


def test_the_order_of_the_servers_is_the_boxs_identity() -> None:
    with Server() as one, Server() as two:
        box = Box.connect([one.address, two.address])
        box.create("b", 10)
        with pytest.raises(
            MismatchError, match=f"number 1 of the box {one.address}, {two.address}.*number 0 of the box"
        ):
            Box.connect([two.address, one.address])
        with pytest.raises(MismatchError, match="The list of servers and its order"):
            Box.connect(one.address)
        box.delete("b")
        box.close()
        # an empty box that nobody uses may be put together anew
        with Box.connect([two.address, one.address]) as other:
            assert other.servers == (two.address, one.address)


def test_clients_that_give_other_orders_while_the_box_is_empty_do_not_share_it() -> None:
    with Server() as a, Server() as b:
        with Box.connect([a.address, b.address], transport="tcp", timeout=5):
            with pytest.raises(MismatchError, match="The list of servers and its order"):
                Box.connect([b.address, a.address], transport="tcp", timeout=5)
        with Box.connect([b.address, a.address], transport="tcp", timeout=5):  # nobody else is left, and nothing
            pass


@pytest.mark.parametrize("ask", ASKS)
def test_a_client_whose_session_was_given_up_belongs_to_its_box_still(ask: str) -> None:
    """It comes back to servers that others have taken in another order meanwhile."""
    with Server(grace=0.01) as a, Server(grace=0.01) as b, ExitStack() as stack:
        proxies = [stack.enter_context(CuttingProxy(server.address, [])) for server in (a, b)]
        one = stack.enter_context(Box.connect([proxy.address for proxy in proxies], transport="tcp", timeout=5))
        for proxy in proxies:
            proxy.cut_all()
        while a.statistics().clients or b.statistics().clients:
            pass
        other = stack.enter_context(Box.connect([b.address, a.address], transport="tcp", timeout=5))
        with pytest.raises(MismatchError, match="The list of servers and its order"):
            ASKS[ask](one)
        other.create("w", 8)


def test_a_server_stands_in_the_list_once(server: Server) -> None:
    with pytest.raises(ValueError, match="stands in the list twice"):
        Box.connect([server.address, server.address])
    with pytest.raises(ValueError, match="no memory server was named"):
        Box.connect("")


@pytest.mark.parametrize("threads", [0, -1])
def test_an_operation_takes_at_least_one_thread(server: Server, threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be at least 1, not {threads}"):
        Box.connect(server.address, threads=threads)


def test_deleted_memory_is_given_back() -> None:
    with server_process("--port", "0") as (process, address), Box.connect(address, transport="tcp") as box:
        counted = psutil.Process(process.pid)
        ones = np.ones(8 * CHUNK // 4, np.float32)
        for turn in range(6):
            buffer = box.create(f"b{turn}", ones.size)
            buffer.write(ones)
            if turn == 0:
                first = counted.memory_info().rss
            box.delete(buffer.name)
        assert counted.memory_info().rss < first + 4 * CHUNK
        assert len(counted.open_files()) == 0


def test_sessions_that_end_leave_nothing(server: Server) -> None:
    before = threading.active_count()
    for transport in ("local", "tcp") * 5:
        with Box.connect(server.address, transport=transport) as box:
            if transport == "local" and not box.list():
                box.create("b", 10)
            box.open("b").add(np.ones(10, np.float32))
    while server.statistics().connections:
        pass
    assert server.statistics().clients == 0
    assert threading.active_count() == before


def test_starting_and_closing_twice_is_harmless() -> None:
    server = Server(memory=CHUNK)
    server.close()
    server.close()
    with pytest.raises(ValueError, match="at least 1 byte"):
        Server(memory=0)


def test_memory_is_bytes_or_a_text_with_a_unit() -> None:
    with Server(memory="64MiB") as server:
        assert server.statistics().memory == 64 << 20
    with pytest.raises(ValueError, match="'64 cats' is not an amount of memory; write it like 512MiB"):
        Server(memory="64 cats")
    for wrong in (1.5e9, None, b"64MiB"):
        with pytest.raises(TypeError, match=re.escape(f"memory ({wrong!r}) must be a whole number of bytes, or")):
            Server(memory=wrong)  # type: ignore[arg-type]


def test_a_grace_is_a_number_of_seconds() -> None:
    for grace in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"grace must be a number of seconds of at least 0, not {grace}"):
            Server(grace=grace)
    wrong: Any
    for wrong in ("2", None):
        with pytest.raises(TypeError):
            Server(grace=wrong)
