"""A DataLoader over shared samples."""

from collections import Counter

import pytest
import torch
from torch.utils.data import TensorDataset

from modum.box import Box
from modum.torch import SharedSamples, loader

DATASET = TensorDataset(torch.arange(50), torch.arange(50) * 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_sample_comes_once_an_epoch_in_batches(workers: int, box: Box) -> None:
    samples = SharedSamples(box, size=50, batch_size=5, epochs=2, block=20)
    batches = list(loader(DATASET, samples, num_workers=workers))
    assert {len(x) for x, _ in batches} == {5}
    assert all(torch.equal(y, 2 * x) for x, y in batches)
    assert Counter(torch.cat([x for x, _ in batches]).tolist()) == Counter(dict.fromkeys(range(50), 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_fetching_ahead_confirms_nothing_that_was_not_processed(workers: int, box: Box) -> None:
    reported = []
    samples = SharedSamples(
        box, size=40, batch_size=5, block=20, report=lambda *, samples, total: reported.append(samples)
    )
    queue = box.queue("samples", 2)
    for number, _ in enumerate(loader(DATASET, samples, num_workers=workers)):
        assert len(reported) == number
        assert queue.statistics().done == number // 4
    assert queue.statistics().done == 2


def test_options_that_the_samples_decide_are_refused(box: Box) -> None:
    samples = SharedSamples(box, size=50, batch_size=5)
    with pytest.raises(ValueError, match="batch_size, shuffle: batches are cut by the samples"):
        loader(DATASET, samples, batch_size=5, shuffle=True)
