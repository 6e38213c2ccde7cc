"""Find free ports."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["free_port", "held_port"]


@contextmanager
def held_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Reserve a TCP port of this host's address `host` inside: no other process is given it before the end."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        yield listener.getsockname()[1]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of this host's address `host` that is free now."""
    with held_port(host) as port:
        return port
