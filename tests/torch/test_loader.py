"""What `share` makes of data for a training loop."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from modum.box import Box
from modum.job import Job
from modum.torch import Averager

DATASET = TensorDataset(torch.arange(50), torch.arange(50) * 2)


@pytest.fixture
def averager(box: Box) -> Iterator[Averager]:
    model = nn.Linear(2, 2)
    with Job(box) as job, Averager(job, model, torch.optim.SGD(model.parameters())) as averager:
        yield averager


@pytest.mark.parametrize("workers", [0, 1])
def test_every_sample_comes_once_an_epoch_in_batches(workers: int, averager: Averager) -> None:
    batches = list(averager.share(DATASET, batch_size=5, epochs=2, block=20, num_workers=workers))
    assert {len(x) for x, _ in batches} == {5}
    assert all(torch.equal(y, 2 * x) for x, y in batches)
    assert Counter(torch.cat([x for x, _ in batches]).tolist()) == Counter(dict.fromkeys(range(50), 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_fetching_ahead_confirms_nothing_that_was_not_processed(workers: int, box: Box, averager: Averager) -> None:
    shared = averager.share(DATASET, size=40, batch_size=5, block=20, num_workers=workers)
    queue = box.queue("model/samples/0", 2)
    for number, _ in enumerate(shared):
        assert queue.statistics().done == number // 4
    assert queue.statistics().done == 2


@pytest.mark.parametrize(
    "data", [(torch.arange(50), torch.arange(50) * 2), (np.arange(50), np.arange(50) * 2)], ids=["tensors", "arrays"]
)
def test_tensors_arrays_and_functions_are_shared_too(data: Any, averager: Averager) -> None:
    for source, options in ((data, {}), (lambda batch: (data[0][batch], data[1][batch]), {"size": 50})):
        batches = list(averager.share(source, batch_size=5, **options))
        assert sorted(int(number) for x, _ in batches for number in x) == list(range(50))
        assert all((2 * x == y).all() for x, y in batches)


def test_a_schedule_can_see_the_progress(averager: Averager) -> None:
    shared = averager.share(DATASET, batch_size=5, block=10)
    assert [shared.samples.progress for _ in shared] == [0, 0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8]


def test_nobody_knows_the_number_of_its_steps_which_is_said_with_that_of_all(averager: Averager) -> None:
    shared = averager.share(DATASET, batch_size=20, epochs=3)
    with pytest.raises(TypeError, match=r"all groups together take about 8 of 20 samples\. .* samples\.progress"):
        len(shared)
    assert len(list(shared)) == 9  # three an epoch


def test_what_cannot_be_shared_is_refused(averager: Averager) -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    for data, options, message in (
        (DATASET, {"shuffle": True}, "shuffle: batches are cut by the shared samples"),
        (Stream(), {}, r"no indices to share out: .*\(job\.rank of job\.world_size\), without share"),
        ((np.arange(3), np.arange(4)), {}, r"the arrays have \[3, 4\] samples"),
        (lambda batch: batch, {}, "needs size="),
        (np.arange(3), {"num_workers": 1}, "num_workers: options of a DataLoader go with"),
    ):
        with pytest.raises(ValueError, match=message):
            averager.share(data, batch_size=1, **options)
