"""Layers that move numbers, against NumPy and OpenCV."""

import numpy as np
import pytest
import torch

from modum.caffe import ModelError
from tests.caffe.layers.support import assert_like_opencv, check_gradients, compute, make, random


@pytest.mark.parametrize(("fields", "axis"), [("", 1), ("axis: 0", 0), ("axis: -1", 2), ("concat_dim: 2", 2)])
def test_concat(fields: str, axis: int) -> None:
    shapes = [[2, 3, 4], [2, 3, 4]]
    shapes[1][axis] = 5
    blobs = [random(*shape) for shape in shapes]
    (top,) = compute("Concat", f"concat_param {{ {fields} }}", *blobs)
    np.testing.assert_array_equal(top.numpy(), np.concatenate([blob.numpy() for blob in blobs], axis))
    check_gradients("Concat", f"concat_param {{ {fields} }}", *blobs, differentiable=(0, 1))
    assert_like_opencv("Concat", f"concat_param {{ axis: {axis} }}", *blobs)


@pytest.mark.parametrize(
    ("fields", "axis", "points"),
    [
        ("", 1, [2, 4]),
        ("axis: 0 slice_point: 1 slice_point: 4", 0, [1, 4]),
        ("slice_dim: 1 slice_point: 1 slice_point: 5", 1, [1, 5]),
    ],
)
def test_slice(fields: str, axis: int, points: list[int]) -> None:
    x = random(5, 6, 2)
    tops = compute("Slice", f"slice_param {{ {fields} }}", x, tops=3)
    for top, expected in zip(tops, np.split(x.numpy(), points, axis), strict=True):
        np.testing.assert_array_equal(top.numpy(), expected)
    check_gradients("Slice", f"slice_param {{ {fields} }}", x, tops=3)


def test_split() -> None:
    x = random(2, 3)
    assert all(torch.equal(top, x) for top in compute("Split", "", x, tops=3))
    check_gradients("Split", "", x, tops=2)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [("", (2, 60)), ("axis: 0", (120,)), ("axis: 1 end_axis: 2", (2, 12, 5)), ("axis: -2 end_axis: -2", (2, 3, 4, 5))],
)
def test_flatten(fields: str, shape: tuple[int, ...]) -> None:
    x = random(2, 3, 4, 5)
    (top,) = compute("Flatten", f"flatten_param {{ {fields} }}", x)
    np.testing.assert_array_equal(top.numpy(), x.numpy().reshape(shape))
    check_gradients("Flatten", f"flatten_param {{ {fields} }}", random(2, 1, 2, 2))
    if len(shape) > 1:  # OpenCV knows no blob of one axis
        assert_like_opencv("Flatten", f"flatten_param {{ {fields} }}", x)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ("shape { dim: 2 dim: 2 dim: 4 }", (2, 2, 4)),
        ("shape { dim: 0 dim: 2 dim: 4 }", (2, 2, 4)),
        ("shape { dim: 0 dim: 2 dim: -1 }", (2, 2, 4)),
        ("shape { dim: 0 dim: -1 dim: 4 }", (2, 2, 4)),
        ("shape { dim: 2 dim: 4 } axis: 1", (2, 2, 4)),
        ("shape { dim: 2 dim: 4 } axis: -2", (2, 2, 4)),
        ("shape { dim: 1 } axis: -1 num_axes: 0", (2, 8, 1)),
        ("shape { dim: 1 } num_axes: 0", (1, 2, 8)),
        ("shape { dim: 1 dim: 2 } num_axes: 1", (1, 2, 8)),
        ("shape { dim: 1 } axis: 1 num_axes: 0", (2, 1, 8)),
        ("shape { dim: -1 }", (16,)),
    ],
)
def test_reshape(fields: str, shape: tuple[int, ...]) -> None:
    x = random(2, 8)
    (top,) = compute("Reshape", f"reshape_param {{ {fields} }}", x)
    np.testing.assert_array_equal(top.numpy(), x.numpy().reshape(shape))
    check_gradients("Reshape", f"reshape_param {{ {fields} }}", x)


@pytest.mark.parametrize(("axis", "tiles"), [(0, 2), (1, 3), (-1, 2), (1, 1)])
def test_tile(axis: int, tiles: int) -> None:
    x = random(2, 3, 4)
    repeats = [1, 1, 1]
    repeats[axis] = tiles
    (top,) = compute("Tile", f"tile_param {{ axis: {axis} tiles: {tiles} }}", x)
    np.testing.assert_array_equal(top.numpy(), np.tile(x.numpy(), repeats))
    check_gradients("Tile", f"tile_param {{ axis: {axis} tiles: {tiles} }}", x)


@pytest.mark.parametrize(
    ("fields", "like", "cut"),
    [
        ("", (9, 9, 4, 3), np.s_[:, :, :4, :3]),
        ("offset: 1", (9, 9, 4, 3), np.s_[:, :, 1:5, 1:4]),
        ("axis: 2 offset: 2 offset: 0", (9, 9, 4, 3), np.s_[:, :, 2:6, :3]),
        ("axis: 1 offset: 1", (9, 2, 4, 3), np.s_[:, 1:3, 1:5, 1:4]),
        ("axis: -1 offset: 1", (9, 9, 9, 3), np.s_[..., 1:4]),
    ],
)
def test_crop(fields: str, like: tuple[int, ...], cut: tuple[slice, ...]) -> None:
    x = random(2, 3, 6, 5)
    (top,) = compute("Crop", f"crop_param {{ {fields} }}", x, torch.zeros(like))
    np.testing.assert_array_equal(top.numpy(), x.numpy()[cut])
    check_gradients("Crop", f"crop_param {{ {fields} }}", x, torch.zeros(like))


def test_filter_hands_on_the_items_whose_selector_is_not_zero() -> None:
    first, second = random(4, 2, 3), random(4)
    layer, shapes = make("Filter", "", (4, 2, 3), (4,), (4, 1), tops=2)
    assert shapes == [(4, 2, 3), (4,)]
    tops = layer(first, second, torch.tensor([[1.0], [0.0], [-2.0], [0.0]]))
    assert torch.equal(tops[0], first[[0, 2]])
    assert torch.equal(tops[1], second[[0, 2]])
    assert layer(first, second, torch.zeros(4, 1))[0].shape == (0, 2, 3)
    assert [layer.needs_gradient(index) for index in range(3)] == [True, True, False]
    check_gradients("Filter", "", first, torch.tensor([1.0, 0, 1, 0]))


def test_batch_reindex_orders_and_repeats_items() -> None:
    x, order = random(3, 2), torch.tensor([2.0, 0.0, 2.0, 2.0])
    assert torch.equal(compute("BatchReindex", "", x, order)[0], x[[2, 0, 2, 2]])
    check_gradients("BatchReindex", "", x, order)


def test_silence_makes_nothing() -> None:
    assert compute("Silence", "", random(2), random(3, 4), tops=0) == []


@pytest.mark.parametrize(
    ("kind", "fields", "shapes", "tops", "problem"),
    [
        ("Concat", "", [(2, 3), (4, 3)], 1, r"bottoms 0 \(2, 3\) and 1 \(4, 3\) differ beside axis 1"),
        ("Concat", "concat_param { axis: 1 concat_dim: 1 }", [(2, 3)], 1, "either axis or concat_dim"),
        ("Slice", "", [(2, 5)], 2, "size 5 cannot be cut into 2 equal tops"),
        ("Slice", "slice_param { slice_point: 1 slice_point: 2 }", [(2, 5)], 2, "2 tops want 1 slice_point"),
        ("Slice", "slice_param { slice_point: 5 }", [(2, 5)], 2, r"slice_point \[5\] must increase, between 0 and 5"),
        ("Flatten", "flatten_param { axis: 2 end_axis: 1 }", [(2, 3, 4)], 1, "end_axis 1 comes before axis 2"),
        ("Reshape", "reshape_param { shape { dim: 5 } }", [(2, 3)], 1, "has 6 numbers"),
        ("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }", [(2, 3)], 1, "may have -1 once"),
        ("Reshape", "reshape_param { shape { dim: -1 dim: 4 } }", [(2, 3)], 1, "cannot be divided"),
        ("Reshape", "reshape_param { shape { dim: 2 dim: 3 dim: 0 } }", [(2, 3)], 1, "has no axis 2"),
        ("Reshape", "reshape_param { shape { dim: 1 } axis: 3 }", [(2, 3)], 1, "axis 3 is out of range"),
        ("Tile", "", [(2, 3)], 1, r"tiles \(0\) must be at least 1"),
        ("Crop", "", [(1, 1, 4, 4), (1, 1, 5, 4)], 1, "axis 2: 5 from offset 0 on is more than the bottom's 4"),
        ("Crop", "crop_param { offset: 1 offset: 1 offset: 1 }", [(1, 1, 4, 4), (1, 1, 2, 2)], 1, "2 axes are cropped"),
        ("Crop", "", [(1, 1, 4, 4), (1, 4, 4)], 1, "must have as many axes"),
        ("Filter", "", [(3, 2), (4,)], 1, "has not as many items as the selector"),
        ("Filter", "", [(3, 2), (3, 2)], 1, "one number for each item"),
        ("Filter", "", [(3, 2), (3,)], 2, "want 1 tops, not 2"),
        ("BatchReindex", "", [(3, 2), (3, 1)], 1, "bottom 1 exactly one"),
    ],
)
def test_mistakes_are_told_with_file_line_and_layer(
    kind: str, fields: str, shapes: list[tuple[int, ...]], tops: int, problem: str
) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": .*{problem}'):
        make(kind, fields, *shapes, tops=tops)
