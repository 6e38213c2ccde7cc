"""Ports for servers that others start."""

import socket

import pytest

from modum.cluster.ports import free_port, held_port


def test_a_held_port_is_nobody_elses_until_the_end() -> None:
    with held_port() as port, held_port() as other:
        assert port != other
        with pytest.raises(OSError, match="in use"), socket.create_server(("127.0.0.1", port)):
            pass
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass
