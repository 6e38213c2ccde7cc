"""`modum doctor`: a table on a terminal, lines elsewhere, JSON on request."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modum.box import Box, Server
from modum.box.protocol.limits import DEFAULT_PORT
from modum.observe.bandwidth import measure_bandwidth
from modum.waiting import poll

WITHOUT_PROC = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
without_proc = pytest.mark.skipif(
    subprocess.run([*WITHOUT_PROC, "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may not unmount /proc in a namespace of its own",
)
MODUM = str(Path(sys.executable).with_name("modum"))


def test_lines_that_can_be_pasted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = subprocess.run(
            [MODUM, "doctor", "--port", str(port)], capture_output=True, text=True, timeout=60, check=True
        )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("  modum                0.1.0 on Python 3.")
    assert "  shared memory        memfd, mapping and chunk locks work" in lines
    assert (
        f"! listen on 127.0.0.1  port {port} cannot be used: Address already in use: "
        "choose another with `modum server --port`"
    ) in lines
    assert done.stderr == ""


def test_json_has_every_value() -> None:
    done = subprocess.run([MODUM, "doctor", "--json"], capture_output=True, text=True, timeout=60, check=True)
    report = json.loads(done.stdout)
    assert report["port"] == DEFAULT_PORT
    assert report["cores_allowed"] == len(os.sched_getaffinity(0))
    assert report["memory_bytes_per_second"] > 0
    assert report["shared_memory_trouble"] is None


@without_proc
def test_without_proc_it_says_what_it_could_not_read() -> None:
    command = [*WITHOUT_PROC, sys.executable, "-m", "modum", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    (files,) = [line for line in done.stdout.splitlines() if "system files" in line]
    assert files.startswith("! system files         cannot be read: /proc/cpuinfo, /proc/meminfo, ")
    assert files.endswith("mount /proc in this container")
    (local,) = [line for line in done.stdout.splitlines() if "transport local" in line]
    assert local.startswith("! transport local      cannot be used: this process cannot read /proc")


@without_proc
def test_without_proc_no_server_starts() -> None:
    command = [*WITHOUT_PROC, sys.executable, "-m", "modum", "server", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "listening" not in done.stdout
    assert "memory cannot be shared on this machine" in done.stderr
    assert "there is no /proc here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_box_is_measured_on_request() -> None:
    with Server(memory=80 << 20, token="secret") as server:
        command = [MODUM, "doctor", "--box", server.address, "--json"]
        environment = {**os.environ, "MODUM_TOKEN": "secret"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    (tcp,) = [path for path in json.loads(done.stdout)["paths"] if path["transport"] == "tcp"]
    assert tcp["server"] == server.address
    assert tcp["bandwidth"]["read_bytes_per_second"] > 1e6
    bad = subprocess.run([MODUM, "doctor", "--box", "host:x"], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 2
    assert "'host:x' is no address of a memory server" in bad.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_measurement_leaves_nothing_in_the_box(number: signal.Signals) -> None:
    with Server(memory=80 << 20, token="secret") as server, Box.connect(server.address, token="secret") as box:
        command = [sys.executable, "-m", "modum", "doctor", "--box", server.address]
        environment = {**os.environ, "MODUM_TOKEN": "secret"}
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        ) as process:

            def stopped_while_it_measures() -> bool:
                if not box.list():
                    assert process.poll() is None, "it was not caught while it measured"
                    return False
                process.send_signal(signal.SIGSTOP)
                if box.list():
                    return True
                process.send_signal(signal.SIGCONT)
                return False

            poll(stopped_while_it_measures, timeout=60, every=0.001, error=TimeoutError)
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            assert process.wait(60) == 128 + number
        assert box.list() == []
        assert box.leases() == []


def test_what_a_killed_measurement_has_left_is_deleted_by_the_next_one() -> None:
    with Server(memory=80 << 20) as server, Box.connect(server.address) as box:
        box.create("modum/measure/1/killed", 4).close()
        box.create("modum/measure/1/goes on", 4).close()
        box.create("weights", 4).close()
        with box.lock("modum/measure/1/goes on", ttl=60):
            measure_bandwidth(box, 1 << 10)
        assert [found.name for found in box.list()] == ["modum/measure/1/goes on", "weights"]


def test_a_table_on_a_terminal() -> None:
    outside, inside = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen([MODUM, "doctor"], stdout=inside, env=environment) as process:
        os.close(inside)
        screen = read_to_end(outside)
    os.close(outside)
    assert process.returncode == 0
    assert "\x1b[1mmodum\x1b[0m" in screen
    assert "✓" in screen


def read_to_end(terminal: int) -> str:
    """What is written to a terminal until everybody has closed it, which Linux reports as an error."""
    content = b""
    with contextlib.suppress(OSError):
        while block := os.read(terminal, 65536):
            content += block
    return content.decode()
