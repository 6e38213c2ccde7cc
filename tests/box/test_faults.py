"""Contract 2 to 4: what the death of one participant means for the others."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pytest
from tests.box.parties import box_of, raw_transport
from tests.box.processes import client_process, line_of

from modum.box import Box, Server
from modum.box.memory.apply import apply
from modum.box.protocol.limits import CHUNK, STALL_SECONDS
from modum.box.protocol.messages import Create, Open, SegmentInfo, encode
from modum.errors import ConnectionLostError, DeadlineError

HOLDS_A_CHUNK = """
import sys
from tests.box.parties import party_of
with party_of(sys.argv[1], "b") as party:
    assert party.locks.take(0, 1, exclusive=True)
    party.mapping.typed("float32")[:1000] += 1  # the chunk is half changed
    print("locked")
    sys.stdin.read()
"""

ADDS_FOREVER = """
import sys
import numpy as np
from modum.box import Box
box = Box.connect(sys.argv[1], transport=sys.argv[2])
buffer = box.open("b")
ones = np.ones(buffer.size, np.float32)
while True:
    buffer.add(ones)
    print(buffer.version)
"""


@contextmanager
def server_process(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`modum server` on a free port: (the process, its address)."""
    command = [sys.executable, "-m", "modum", "server", "--memory", "64MiB", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, line_of(process).rpartition(" ")[2]
    finally:
        process.kill()
        process.communicate()


def stop(process: "subprocess.Popen[str]") -> None:
    """Stop every thread of the process; the signal alone does not wait for them."""
    process.send_signal(signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        pass


@pytest.mark.parametrize("transport", ["local", "tcp"])
def test_a_client_killed_inside_a_locked_chunk_stops_nobody(server: Server, transport: str) -> None:
    with Box.connect(server.address, transport=transport, timeout=10) as box:
        buffer = box.create("b", 3 * CHUNK // 4)
        with client_process(HOLDS_A_CHUNK, server.address) as process:
            assert line_of(process) == "locked"
            thread = threading.Thread(target=buffer.add, args=(np.ones(buffer.size, np.float32),))
            thread.start()
            # the other chunks are done while the first waits for its lock
            with Box.connect(server.address, transport="local", timeout=10) as other:
                rest = other.open("b")
                if transport == "local":
                    while not rest.read(offset=CHUNK // 4, count=1).item():
                        pass
                process.kill()
                thread.join()
                seen = rest.read()
        np.testing.assert_array_equal(seen[:1000], np.full(1000, 2, np.float32))  # once by the dead, once by us
        np.testing.assert_array_equal(seen[1000:], np.ones(buffer.size - 1000, np.float32))


def test_a_stopped_client_in_a_locked_chunk_is_named_when_time_is_up(server: Server) -> None:
    with Box.connect(server.address, transport="local", timeout=0.2) as box:
        buffer = box.create("b", CHUNK // 4)
        with client_process(HOLDS_A_CHUNK, server.address) as process:
            assert line_of(process) == "locked"
            stop(process)
            with pytest.raises(
                DeadlineError, match=r"add on buffer 'b': chunk 0 stayed locked for 0.2 s: its holder is"
            ):
                buffer.add(np.ones(buffer.size, np.float32))
            process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("transport", ["local", "tcp"])
def test_what_a_killed_client_was_told_is_there_and_the_rest_at_most_once(server: Server, transport: str) -> None:
    with Box.connect(server.address, transport="local", timeout=10) as box:
        buffer = box.create("b", 4 * CHUNK // 4)
        with client_process(ADDS_FOREVER, server.address, transport) as process:
            acknowledged = 0
            while acknowledged < 20:
                acknowledged = int(line_of(process))
            process.kill()
            assert process.stdout is not None
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        while server.statistics().clients > 1:
            pass
        seen = buffer.read()
        assert set(np.unique(seen)) <= {acknowledged, acknowledged + 1}


def test_a_server_that_does_not_answer_is_named_when_time_is_up() -> None:
    with (
        server_process("--port", "0") as (process, address),
        Box.connect(address, transport="tcp", timeout=0.3) as box,
    ):
        buffer = box.create("b", 10)
        stop(process)
        try:
            with pytest.raises(
                DeadlineError, match=f"add on buffer 'b': memory server {address} did not answer for 0.3 s"
            ):
                buffer.add(np.ones(10, np.float32))
            with pytest.raises(DeadlineError, match=f"memory server {address}"):
                Box.connect(address, timeout=0.3)
        finally:
            process.send_signal(signal.SIGCONT)


def test_a_server_that_does_not_hand_its_memory_over_is_named_when_time_is_up() -> None:
    with server_process("--port", "0") as (process, address), raw_transport(address, "local") as transport:
        made = transport.call(Create("b", [1], "float32", 4, 4, encode({})), SegmentInfo, 10)
        stop(process)
        try:
            began = time.monotonic()
            with pytest.raises(
                DeadlineError, match=f"attach to buffer 'b': memory server {address} did not answer for"
            ):
                transport.attach(made, 0.2)
            assert time.monotonic() - began < STALL_SECONDS / 2
        finally:
            process.send_signal(signal.SIGCONT)
        transport.attach(made, 10).close()


def test_a_server_that_is_gone_is_named(server: Server) -> None:
    with server_process("--port", "0") as (process, address):
        box = Box.connect([server.address, address], transport="tcp", timeout=10)
        buffer = box.create("b", 4 * CHUNK)
        process.kill()
        with pytest.raises(
            ConnectionLostError, match=f"add on buffer 'b': memory server {address} is gone: it could not be reached"
        ):
            buffer.add(np.ones(buffer.size, np.float32))
        box.close()


def test_a_restarted_server_is_not_taken_for_the_old_one() -> None:
    with server_process("--port", "0") as (process, address):
        box = Box.connect(address, transport="tcp", timeout=10)
        buffer = box.create("b", 10)
        process.kill()
        process.wait()
        with server_process("--port", address.rpartition(":")[2]):
            with pytest.raises(ConnectionLostError, match="was restarted: what it held is lost"):
                buffer.add(np.ones(10, np.float32))
        box.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_client_that_maps_the_memory_learns_that_its_server_is_gone(number: signal.Signals) -> None:
    with server_process("--port", "0") as (process, address), Box.connect(address, transport="local") as box:
        buffer = box.create("b", 10)
        process.send_signal(number)
        process.wait()
        with pytest.raises(ConnectionLostError, match=f"add on buffer 'b': memory server {address} is gone"):
            buffer.add(np.ones(10, np.float32))


def test_a_port_where_something_else_listens_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(DeadlineError, match=f"connect: memory server {address} could not be reached"):
            Box.connect(address, timeout=0.3)


def test_a_port_where_nobody_listens_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
    with pytest.raises(
        (ConnectionLostError, DeadlineError),
        match=f"memory server {address} could not be reached.*refused\nHINT: nothing listens",
    ):
        Box.connect(address, timeout=0.3)


def test_closing_a_server_ends_its_waiting_clients_at_once() -> None:
    errors: list[Exception] = []
    with Server() as server:
        box = Box.connect(server.address, timeout=10)

        def wait() -> None:
            try:
                box.counter("never").wait(1)
            except ConnectionLostError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while server.statistics().connections < 3 and thread.is_alive():
            box.counter("other").add(1)
    thread.join()
    box.close()
    assert len(errors) == 1


@pytest.mark.parametrize("disturbed", ["counter", "waiting thread", "operation"])
def test_nothing_is_acknowledged_on_the_memory_of_a_dead_server(disturbed: str) -> None:
    with (
        server_process("--port", "0") as (process, address),
        box_of([address], "local") as (box, fanout),
    ):
        buffer = box.create("b", 2 * CHUNK)
        transport = fanout.transports[0]
        attachment = transport.attach(transport.call(Open("b"), SegmentInfo, 10), 10)
        ones = np.ones(buffer.size, np.float32)

        def wait() -> None:
            with pytest.raises(ConnectionLostError):
                box.counter("never").wait(1)

        waiting = threading.Thread(target=wait)
        if disturbed == "waiting thread":  # so that no connection is idle
            waiting.start()
            while box.statistics().servers[0].connections < 3:
                pass
        process.kill()
        process.wait()
        if disturbed == "counter":
            with pytest.raises(ConnectionLostError):
                box.counter("c").add(1)
        elif disturbed == "waiting thread":
            waiting.join()
        for act in (
            lambda: buffer.add(ones),
            lambda: buffer.add(ones[:1]),
            lambda: buffer.read(),
            lambda: buffer.copy(buffer),
            lambda: buffer.version,
            lambda: buffer.wait(0),
            lambda: transport.publish(attachment, 10),
        ) * 3:
            with pytest.raises(ConnectionLostError, match=f"memory server {address} is gone"):
                act()
        attachment.close()


def test_an_operation_during_which_the_server_dies_is_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        server_process("--port", "0") as (process, address),
        Box.connect(address, transport="local", timeout=10) as box,
    ):
        buffer = box.create("b", 10)

        def dying(*arguments: Any, **options: Any) -> None:
            apply(*arguments, **options)
            process.kill()
            process.wait()

        monkeypatch.setattr("modum.box.transport.local.apply", dying)
        with pytest.raises(ConnectionLostError, match=f"add on buffer 'b': memory server {address} is gone"):
            buffer.add(np.ones(10, np.float32))


FORKS = """
import os, sys
import numpy as np
from modum.box import Box
from modum.errors import ModumError
address, transport = sys.argv[1:]
with Box.connect(address, transport=transport, timeout=10) as box:
    buffer, counter = box.create("b", 8), box.counter("c")
    counter.add(1)
    buffer.add(np.ones(8, np.float32))
    lease = box.lock("l")
    child = os.fork()
    if not child:
        for act in (lambda: counter.add(1), lambda: buffer.add(np.ones(8, np.float32)), lambda: buffer.read()):
            try:
                act()
            except ModumError as error:
                print(error)
        box.close()
        os._exit(0)
    os.waitpid(child, 0)
    lease.renew()
    buffer.add(np.ones(8, np.float32))
    print(counter.add(1), buffer.read()[0])
"""


@pytest.mark.parametrize("transport", ["local", "tcp"])
def test_a_fork_is_told_to_connect_and_its_parent_goes_on(server: Server, transport: str) -> None:
    with client_process(FORKS, server.address, transport) as process:
        for _ in range(3):
            assert line_of(process).endswith("of which this one is a fork: connect a box of its own here")
        assert line_of(process) == "1 2.0"
