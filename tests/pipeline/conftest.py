"""Jobs that end with the test."""

from collections.abc import Iterator

import pytest

from tests.pipeline import support


@pytest.fixture(autouse=True)
def _jobs_end() -> Iterator[None]:
    yield
    while support.JOBS:
        support.JOBS.pop().close()
