"""`modum server` and `modum status` as a user meets them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.box.processes import line_of
from tests.box.test_faults import server_process

from modum.box import Box, Server


def modum(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "modum", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "80", **environment},
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_says_where_it_listens_and_stops_on_a_signal(number: signal.Signals) -> None:
    with server_process("--port", "0") as (process, address), Box.connect(address) as box:
        box.create("b", 10)
        process.send_signal(number)
        assert process.wait(5) == 0


def test_a_server_can_follow_its_standard_input() -> None:
    command = [sys.executable, "-m", "modum", "server", "--port", "0", "--stop-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert line_of(process).startswith("modum server listening on 127.0.0.1:")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0


def test_a_line_of_its_input_stops_a_server_once_its_clients_have_left() -> None:
    command = [sys.executable, "-m", "modum", "server", "--interface", "lo", "--port", "0", "--stop-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        address = line_of(process).removeprefix("modum server listening on ").strip()
        assert process.stdin is not None
        with Box.connect(address, transport="tcp") as box:
            process.stdin.write("\n")
            process.stdin.flush()
            assert box.counter("still there").add(1) == 0
        assert process.wait(5) == 0


def test_wrong_options_are_told() -> None:
    assert "'eth77' is no network interface" in modum("server", "--interface", "eth77").stderr
    assert "is not an amount of memory" in modum("server", "--memory", "lots").stderr
    assert "refusing to listen on 0.0.0.0" in " ".join(modum("server", "--host", "0.0.0.0").stderr.split())
    with server_process("--port", "0") as (_, address):
        failed = modum("server", "--port", address.rpartition(":")[2])
        assert failed.returncode == 1
        assert f"cannot listen on {address}: Address already in use" in failed.stderr
        assert failed.stderr.rstrip().endswith(
            f"`ss -ltnp sport = :{address.rpartition(':')[2]}` says who listens on this one"
        )
    assert (
        "HINT: --host takes an address of this machine"
        in modum("server", "--host", "192.0.2.1", MODUM_TOKEN="t" * 16).stderr
    )


def test_a_server_takes_its_token_from_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o644)
    assert "chmod 600" in modum("server", "--token-file", str(path)).stderr
    path.chmod(0o600)
    with server_process("--port", "0", "--token-file", str(path)) as (_, address):
        with Box.connect(address, token="secret") as box:
            assert box.counter("c").add(1) == 0


def test_status_shows_servers_and_buffers() -> None:
    with server_process("--port", "0") as (_, address), Box.connect(address) as box:
        box.create("model/weights", (1000, 100)).add(np.ones((1000, 100), np.float32))
        shown = modum("status", address, "--seconds", "0.1")
        assert shown.returncode == 0
        (line,) = (line for line in shown.stdout.splitlines() if address in line)
        assert "64 MiB" in line
        (line,) = (line for line in shown.stdout.splitlines() if "model/weights" in line)
        assert line.split() == ["model/weights", "1000", "x", "100", "float32", "390.6", "KiB", "1"]


def test_status_of_nothing_says_what_to_type() -> None:
    failed = modum("status", "127.0.0.1:1")
    assert failed.returncode == 1
    assert "memory server 127.0.0.1:1 could not be reached" in failed.stderr
    assert failed.stderr.count("HINT: ") == 1
    assert "HINT: nothing listens there: start `modum server` on that machine" in failed.stderr


def test_status_with_the_wrong_token_says_where_the_right_one_is() -> None:
    with Server(token="right" * 4) as server:
        failed = modum("status", server.address, MODUM_TOKEN="wrong" * 4)
    assert failed.returncode == 1
    assert f"error: wrong token (memory server {server.address})\nHINT: give the token with which" in failed.stderr
    assert failed.stderr.count("HINT: ") == 1


def test_an_encrypted_server_is_reached_by_the_address_that_it_prints() -> None:
    token = "a token of 24 characters"
    command = [sys.executable, "-m", "modum", "server", "--port", "0", "--stop-with-stdin", "--encrypt"]
    environment = {**os.environ, "MODUM_TOKEN": token}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        address = line_of(process).removeprefix("modum server listening on ").strip()
        assert address.startswith("encrypt://127.0.0.1:")
        assert address in modum("status", address, MODUM_TOKEN=token).stdout
        plain = modum("status", address.removeprefix("encrypt://"), MODUM_TOKEN=token)
        assert plain.returncode == 1
        assert f"HINT: give the address as {address}" in plain.stderr
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0
