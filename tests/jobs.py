"""A pytest plugin: jobs whose workers share the test's process, closed at its end."""

from collections.abc import Iterator

import pytest

from modum import Job
from modum.box import Box

_jobs: list[Job] = []


def job_of(box: Box, rank: int, world_size: int) -> Job:
    """A worker's view of a job whose workers share this process; closed at the end of the test."""
    job = Job(box, rank=rank, world_size=world_size, local_rank=rank)
    _jobs.append(job)
    return job


@pytest.fixture(autouse=True)
def _jobs_end() -> Iterator[None]:
    yield
    while _jobs:
        _jobs.pop().close()
