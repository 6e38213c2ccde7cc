"""Memory servers that a worker runs for its host live as long as it does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from modum.box import Box
from modum.errors import ModumError
from modum.run.host_servers import HostServers

PATIENCE = 20.0

FORKING = """
import os, sys, time
from modum.run.host_servers import HostServers

servers = HostServers(1, 2**20, "127.0.0.1", "token")
child = os.fork()
if child == 0:
    time.sleep(1000)
print(child, servers._servers[0].pid, flush=True)
time.sleep(1000)
"""


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} still lives"
        time.sleep(0.01)


def test_they_serve_until_their_clients_have_said_goodbye() -> None:
    servers = HostServers(2, 2**20, "127.0.0.1", "token")
    try:
        assert len(set(servers.addresses)) == 2
        with Box.connect(servers.addresses, token="token", transport="tcp") as box:
            assert box.counter("here").add(1) == 0
        servers.finish()
    finally:
        servers.close()
    with pytest.raises(ModumError):
        Box.connect(servers.addresses, token="token", timeout=0.2)


def test_they_end_with_their_worker_although_a_child_that_it_forked_lives_on(tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(FORKING)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child, server = map(int, worker.stdout.readline().split())
        try:
            worker.kill()
            assert_gone(server)
            assert psutil.pid_exists(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_one_that_cannot_start_is_told_and_leaves_none() -> None:
    with pytest.raises(ModumError, match="a memory server ended with status 1 before it was ready"):
        HostServers(2, 2**20, "203.0.113.1", "token")  # an address of nobody
