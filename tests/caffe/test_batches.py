"""Batches shared out to the members of a group."""

import pytest

from modum.caffe import ModelError
from modum.caffe.batches import split_batches
from tests.caffe.nets import CLASSIFIER, spec

DATA = 'layer { name: "d" type: "Data" top: "x" data_param { source: "s" batch_size: 10 } }'


def test_members_load_parts_that_make_the_whole_batch() -> None:
    parts = [split_batches(spec(DATA), member, 4) for member in range(4)]
    assert [net.layer[0].data_param.batch_size for net, _ in parts] == [3, 3, 2, 2]
    # the mean over members of (factor times mean over the part) is the mean over the batch
    assert [factor / 4 for _, factor in parts] == pytest.approx([0.3, 0.3, 0.2, 0.2])


def test_one_worker_loads_all() -> None:
    net, factor = split_batches(spec(DATA), 0, 1)
    assert (net.layer[0].data_param.batch_size, factor) == (10, 1.0)


def test_dummy_data_are_cut_along_the_first_axis() -> None:
    net, _ = split_batches(spec(CLASSIFIER), 1, 2)
    assert [list(shape.dim) for shape in net.layer[0].dummy_data_param.shape] == [[3, 2, 4, 4], [3]]


def test_a_batch_that_is_too_small_is_refused_with_its_line() -> None:
    with pytest.raises(ModelError, match=r'net.prototxt:1: layer "d": a batch of 10 cannot be shared out to the 11'):
        split_batches(spec(DATA), 0, 11)
