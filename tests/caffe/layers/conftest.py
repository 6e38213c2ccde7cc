"""One compute thread and the same random numbers for each test."""

from tests.torch.conftest import _seeded

__all__ = ["_seeded"]
