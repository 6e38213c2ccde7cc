"""Find free ports."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["free_port", "free_ports", "held_port"]


@contextmanager
def held_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Reserve a TCP port of this host's address `host` inside: no other process is given it before the end."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        yield listener.getsockname()[1]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of this host's address `host` that is free now."""
    return free_ports(1, host)[0]


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """Return so many TCP ports of this host's address `host` that are free now, all different."""
    with ExitStack() as stack:
        return [stack.enter_context(held_port(host)) for _ in range(number)]
    raise AssertionError("unreachable")
