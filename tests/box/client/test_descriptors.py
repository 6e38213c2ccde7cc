"""A process that is out of file descriptors is told so, and not that its server is gone."""

import errno
import re
import socket

import pytest
from tests.box.processes import client_process, line_of

from modum.box import Box, Server
from modum.errors import DeadlineError

NO_SIGN = "DeadlineError .*memory server .* which is no sign that it is gone: Too many open files .*HINT: .*ulimit -n"
OUT_OF_DESCRIPTORS = """
import os, resource, sys, threading
from modum.box import Box
from modum.errors import ModumError
address, transport = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
box = Box.connect(address, transport=transport, timeout=0.5)
box.counter("c").add(1)
taken = []
while True:
    try:
        taken.append(os.dup(0))
    except OSError:
        break
def attempt(act):
    try:
        act()
        print("worked", flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
attempt(lambda: Box.connect(address, transport=transport, timeout=0.5).close())
attempt(lambda: box.open("b").read())
attempt(lambda: box.counter("c").add(1))
for descriptor in taken:
    os.close(descriptor)
attempt(lambda: box.open("b").read())
attempt(lambda: Box.connect(address, transport=transport, timeout=5).close())
"""


@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_a_process_without_descriptors_is_told_so_and_goes_on_once_it_has_some(server: Server, transport: str) -> None:
    with Box.connect(server.address) as maker:
        maker.create("b", 3).close()
        with client_process(OUT_OF_DESCRIPTORS, server.address, transport) as process:
            told = [line_of(process) for _ in range(5)]
    assert "Too many open files" in told[0]
    if transport == "tcp":
        assert re.match(NO_SIGN, told[0])
        assert told[1] == "worked"  # over the connection that is there
    else:
        assert re.match(NO_SIGN, told[1])
    assert told[2:] == ["worked"] * 3


def test_a_machine_without_ports_is_no_sign_of_the_servers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_port(*_: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    with Server() as server:
        monkeypatch.setattr(socket, "create_connection", no_port)
        with pytest.raises(
            DeadlineError, match=r"no sign that it is gone: Cannot assign requested address.*\n.*no port"
        ):
            Box.connect(server.address, timeout=0.1)
