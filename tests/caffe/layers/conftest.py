"""One compute thread and the same random numbers for each test."""

from tests.torch.conftest import seeded

__all__ = ["seeded"]
