"""One compute thread and the same random numbers for each test, and tests' nets and solvers from text."""

from tests.torch.conftest import _seeded

__all__ = ["_seeded"]
