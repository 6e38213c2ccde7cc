"""The memory server and clients of the update rules' tests."""

from tests.update.conftest import box, connect, server

__all__ = ["box", "connect", "server"]
