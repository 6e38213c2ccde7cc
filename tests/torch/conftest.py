"""The memory server and clients of the update rules' tests, and one compute thread."""

from collections.abc import Iterator

import pytest
import torch

from tests.update.conftest import box, connect, server

__all__ = ["box", "connect", "server"]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
