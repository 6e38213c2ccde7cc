"""The arithmetic of handing samples out."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modum.samples.permutation import Permutation


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 3), st.integers(1, 4), st.data())
def test_every_epoch_has_every_sample_once_and_no_member_lacks_a_part(
    size: int, batch_size: int, epochs: int, members: int, data: st.DataObject
) -> None:
    block = data.draw(st.none() | st.integers(min(size, batch_size), 2 * size))
    try:
        permutation = Permutation(size=size, batch_size=batch_size, epochs=epochs, block=block, members=members)
    except ValueError as error:
        assert "fewer than the group's" in str(error)  # noqa: PT017 - only some drawn cases are refused
        return
    for epoch in range(epochs):
        blocks = [number for number in range(permutation.blocks) if permutation.epoch(number) == epoch]
        parts = [
            [[permutation.part(batch, member) for batch in permutation.batches(number)] for number in blocks]
            for member in range(members)
        ]
        lengths = [[[len(batch) for batch in block] for block in member] for member in parts]
        assert min(length for member in lengths for block in member for length in block) >= 1
        assert all(len(one) == len(parts[0][0]) for one in [member[0] for member in parts])
        given_out = np.concatenate([batch for member in parts for block in member for batch in block])
        assert sorted(given_out.tolist()) == list(range(size))
        assert all(sum(column) <= batch_size for column in zip(*[member[0] for member in lengths], strict=True))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 4), st.integers(0, 60))
def test_what_is_left_of_a_block_begins_where_it_was_left_and_has_a_sample_for_each_member(
    size: int, batch_size: int, members: int, begun: int
) -> None:
    assume(size >= members and batch_size >= members and size // -(-size // batch_size) >= members)
    permutation = Permutation(size=size, batch_size=batch_size, block=size, members=members)
    whole = np.concatenate(permutation.batches(0))
    left = permutation.batches(0, begun)
    np.testing.assert_array_equal(np.concatenate(left), whole[-sum(map(len, left)) :])
    assert sum(map(len, left)) >= size - begun
    if size - begun >= batch_size >= 2 * members:
        assert sum(map(len, left)) == size - begun
    assert all(len(permutation.part(batch, member)) for batch in left for member in range(members))
    assert max(map(len, left)) <= batch_size


@pytest.mark.parametrize("block", [0, -1, 7])
def test_a_block_below_a_batch_is_refused_with_its_value(block: int) -> None:
    with pytest.raises(ValueError, match=rf"block \({block}\) must hold at least one batch \(8\)"):
        Permutation(size=100, batch_size=8, block=block)
