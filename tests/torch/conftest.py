"""One compute thread, the same random numbers, and averagers."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn

from modum.box import Box
from modum.job import Job
from modum.torch import Averager
from tests.torch.workplace import Make


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def averager() -> Iterator[Make]:
    """Makes averagers of a model, an optimizer and a client of the box, which are closed at the end."""
    jobs: set[Job] = set()
    with ExitStack() as stack:

        def make(
            model: nn.Module, optimizer: torch.optim.Optimizer, box: Box | Job, *args: Any, **kwargs: Any
        ) -> Averager:
            job = box if isinstance(box, Job) else Job(box)
            if job not in jobs:
                jobs.add(stack.enter_context(job))
            return stack.enter_context(Averager(job, model, optimizer, *args, **kwargs))

        yield make
