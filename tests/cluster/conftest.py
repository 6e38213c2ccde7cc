"""What the tests of launching share."""

import os

import pytest

LAUNCHERS = (
    "MODUM_",
    "RANK",
    "WORLD_",
    "LOCAL_",
    "GROUP_",
    "MASTER_",
    "TORCHELASTIC_",
    "OMPI_",
    "PMI_",
    "MPI_",
    "MV2_",
)


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher has left a word in the environment."""
    for name in list(os.environ):
        if name.startswith((*LAUNCHERS, "SLURM")) and name != "MODUM_TEST_SESSION":
            monkeypatch.delenv(name)
