"""Memory servers in processes of their own live as long as the process that started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.processes import assert_gone

from modum.box import Box
from modum.box.server.process import ServerProcesses, ready_address, ready_line
from modum.errors import ModumError

FORKING = """
import os, sys, time
from modum.box.server.process import ServerProcesses

servers = ServerProcesses(2**20)
child = os.fork()
if child == 0:
    time.sleep(1000)
print(child, servers.pids[0], flush=True)
time.sleep(1000)
"""


def test_they_serve_until_their_clients_have_said_goodbye() -> None:
    with ServerProcesses(
        2**20, count=2, environment={**os.environ, "MODUM_TOKEN": "a token of many characters"}
    ) as servers:
        assert len(set(servers.addresses)) == len(set(servers.pids)) == 2
        with Box.connect(servers.addresses, token="a token of many characters", transport="tcp") as box:
            assert box.counter("here").add(1) == 0
        servers.finish()
        with pytest.raises(ModumError):
            Box.connect(servers.addresses, token="a token of many characters", timeout=0.2)


def test_they_end_with_their_worker_although_a_child_that_it_forked_lives_on(tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child, server = map(int, worker.stdout.readline().split())
        try:
            worker.kill()
            assert_gone([server])
            assert psutil.pid_exists(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_one_that_cannot_start_is_told_and_leaves_none() -> None:
    environment = {**os.environ, "MODUM_TOKEN": "a token of many characters"}
    with pytest.raises(ModumError, match="a memory server ended with status 1 before it was ready"):
        ServerProcesses(2**20, count=2, host="203.0.113.1", environment=environment)  # an address of nobody


def test_one_that_is_not_ready_in_time_is_told_and_ended() -> None:
    with pytest.raises(ModumError, match=r"a memory server \(pid \d+\) was not ready after 0 s"):
        ServerProcesses(2**20, timeout=0.0)


def test_the_line_that_says_where_it_listens_is_read_as_it_is_written() -> None:
    assert ready_address(ready_line("[::1]:7500")) == "[::1]:7500"
    assert ready_address("warning: --memory 1TiB is more than the 8GiB available here") is None
