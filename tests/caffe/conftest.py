"""One compute thread and the same random numbers for each test, and tests' nets and solvers from text."""

from tests.torch.conftest import seeded

__all__ = ["seeded"]
