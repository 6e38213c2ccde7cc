"""Pooling and SPP against a loop over their definition, and OpenCV."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modum.caffe import TEST, ModelError
from modum.caffe.layers.pooling import LOWEST
from tests.caffe.layers.support import Array, assert_like_opencv, check_gradients, compute, make, parse, random

Pair = tuple[int, int]


def places(size: int, kernel: int, stride: int, pad: int, padded: bool) -> int:
    number = math.ceil((size + 2 * pad - kernel) / stride) + 1
    return number - 1 if padded and (number - 1) * stride >= size + pad else number


def pooled(image: Array, method: str, kernel: Pair, stride: Pair, pad: Pair) -> tuple[Array, Array]:
    """Values, and for MAX the places of the maxima."""
    height, width = image.shape[2:]
    rows = places(height, kernel[0], stride[0], pad[0], pad != (0, 0))
    columns = places(width, kernel[1], stride[1], pad[1], pad != (0, 0))
    values, masks = np.zeros((2, *image.shape[:2], rows, columns))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride[0] - pad[0], column * stride[1] - pad[1]
            bottom, right = min(top + kernel[0], height + pad[0]), min(left + kernel[1], width + pad[1])
            area = (bottom - top) * (right - left)
            part = image[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
            flat = part.reshape(*image.shape[:2], -1)
            if method == "AVE":
                with np.errstate(invalid="ignore"):
                    values[:, :, row, column] = np.divide(flat.sum(2), area)
            elif flat.shape[2]:
                values[:, :, row, column] = flat.max(2)
                first = flat.argmax(2)
                masks[:, :, row, column] = (
                    (max(top, 0) + first // part.shape[3]) * width + max(left, 0) + first % part.shape[3]
                )
            else:
                values[:, :, row, column], masks[:, :, row, column] = LOWEST, -1
    return values, masks


@st.composite
def windows(draw: st.DrawFn) -> tuple[Pair, Pair, Pair, Pair]:
    """Size, kernel, stride and pad."""
    sides = []
    for _ in range(2):
        kernel = draw(st.integers(1, 5))
        pad = draw(st.integers(0, kernel - 1))
        sides.append((draw(st.integers(max(kernel - 2 * pad, 1), 9)), kernel, draw(st.integers(1, 6)), pad))
    (h, kh, sh, ph), (w, kw, sw, pw) = sides
    return (h, w), (kh, kw), (sh, sw), (ph, pw)


def fields(method: str, kernel: Pair, stride: Pair, pad: Pair) -> str:
    return (
        f"pooling_param {{ pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} "
        f"stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} }}"
    )


@settings(max_examples=150, deadline=None)
@given(windows(), st.booleans())
def test_maxima_and_their_places_are_those_of_the_definition(window: tuple[Pair, Pair, Pair, Pair], ties: bool) -> None:
    size, *rest = window
    image = random(2, 3, *size)
    if ties:
        image = (image * 2).round()
    values, masks = pooled(image.numpy(), "MAX", *rest)
    top, mask = compute("Pooling", fields("MAX", *rest), image, tops=2)
    np.testing.assert_array_equal(top.numpy(), values)
    np.testing.assert_array_equal(mask.numpy(), masks)
    (alone,) = compute("Pooling", fields("MAX", *rest), image)
    assert torch.equal(alone, top)


@settings(max_examples=150, deadline=None)
@given(windows())
def test_averages_are_those_of_the_definition(window: tuple[Pair, Pair, Pair, Pair]) -> None:
    size, *rest = window
    image = random(2, 3, *size)
    (top,) = compute("Pooling", fields("AVE", *rest), image)
    np.testing.assert_allclose(top.numpy(), pooled(image.numpy(), "AVE", *rest)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "window",
    ["kernel_size: 3 stride: 2", "kernel_size: 2 stride: 2", "kernel_size: 3 stride: 2 pad: 1", "kernel_size: 3"],
)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("size", [6, 7, 8])
def test_pooling_is_as_in_opencv(window: str, method: str, size: int) -> None:
    assert_like_opencv("Pooling", f"pooling_param {{ pool: {method} {window} }}", random(2, 3, size, size + 1))


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize(
    "window",
    [
        "kernel_size: 3 stride: 2",
        "kernel_size: 4 stride: 3 pad: 3",
        "kernel_size: 1 stride: 3",
        "global_pooling: true",
        "kernel_size: 5",
    ],
)
def test_gradients(method: str, window: str) -> None:
    check_gradients("Pooling", f"pooling_param {{ pool: {method} {window} }}", random(1, 2, 5, 5))


def test_of_equal_maxima_the_first_has_the_gradient() -> None:
    image = torch.ones(1, 1, 4, 4, requires_grad=True)
    for pad, size in ((0, 2), (2, 3)):  # PyTorch's own windows, and padded ones
        layer, _ = make("Pooling", fields("MAX", (size, size), (size, size), (pad, pad)), (1, 1, 4, 4))
        (gradient,) = torch.autograd.grad(layer(image)[0].sum(), image)
        expected = torch.zeros(4, 4)
        starts = [max(start, 0) for start in range(-pad, 4, size)]
        for row in starts:
            for column in starts:
                expected[row, column] = 1
        assert torch.equal(gradient[0, 0], expected)


def test_global_pooling_follows_the_bottom() -> None:
    layer, shapes = make("Pooling", "pooling_param { pool: AVE global_pooling: true }", (2, 3, 5, 4))
    assert shapes == layer.reshape([(2, 3, 7, 7)]) == [(2, 3, 1, 1)]
    image = random(2, 3, 7, 7)
    torch.testing.assert_close(layer(image)[0], image.mean((2, 3), keepdim=True))


def test_rounding_down_can_be_asked_for() -> None:
    _, shapes = make("Pooling", "pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }", (1, 1, 5, 5))
    assert shapes == [(1, 1, 2, 2)]
    _, shapes = make("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", (1, 1, 5, 5))
    assert shapes == [(1, 1, 3, 3)]


def test_stochastic_pooling_draws_in_proportion() -> None:
    image = torch.tensor([[1.0, 3.0], [0.0, 4.0]], dtype=torch.float64).expand(1, 4000, 2, 2)
    (top,) = compute("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", image)
    shares = [(top == value).double().mean().item() for value in (1.0, 3.0, 0.0, 4.0)]
    assert sum(shares) == 1
    np.testing.assert_allclose(shares, [1 / 8, 3 / 8, 0, 4 / 8], atol=0.04)
    (expected,) = compute("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", image, phase=TEST)
    torch.testing.assert_close(expected[0, 0, 0, 0].item(), (1 + 9 + 16) / 8)


def test_stochastic_pooling_sends_the_gradient_to_what_was_drawn() -> None:
    image = random(2, 3, 5, 5, low=0.1).requires_grad_()
    (top,) = compute("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }", image)
    (gradient,) = torch.autograd.grad(top.sum(), image)
    assert gradient.sum() == top.numel() == 2 * 3 * 3 * 3
    assert set(image[gradient == 1].tolist()) == set(top.flatten().tolist())


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("size", [(4, 4), (7, 6), (13, 11)])
def test_a_pyramid_joins_its_levels(method: str, size: Pair) -> None:
    image = random(2, 3, *size)
    expected = []
    for level in range(3):
        kernel = (math.ceil(size[0] / 2**level), math.ceil(size[1] / 2**level))
        pad = ((kernel[0] * 2**level - size[0] + 1) // 2, (kernel[1] * 2**level - size[1] + 1) // 2)
        expected.append(pooled(image.numpy(), method, kernel, kernel, pad)[0].reshape(2, -1))
    (top,) = compute("SPP", f"spp_param {{ pyramid_height: 3 pool: {method} }}", image)
    np.testing.assert_allclose(top.numpy(), np.concatenate(expected, 1), atol=1e-12)
    check_gradients("SPP", f"spp_param {{ pyramid_height: 2 pool: {method} }}", random(1, 2, *size))


def test_a_pyramid_of_one_level_keeps_its_axes() -> None:
    image = random(2, 3, 5, 4)
    (top,) = compute("SPP", "spp_param { pyramid_height: 1 }", image)
    assert torch.equal(top, image.amax((2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "either kernel_size, or both"),
        ("kernel_h: 2", "either kernel_size, or both"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "either kernel_size, or both"),
        ("kernel_size: 2 stride_h: 2", "either stride, or both"),
        ("kernel_size: 2 stride: 0", "must not be 0"),
        ("kernel_size: 2 pad: 2", r"pad \(2, 2\) must be less than the kernel \(2, 2\)"),
        ("kernel_size: 6", "exceeds the input"),
        ("kernel_size: 2 global_pooling: true", "remove kernel_size"),
        ("global_pooling: true pad: 1", "wants pad 0 and stride 1"),
        ("kernel_size: 2 pad: 1 pool: STOCHASTIC", "has no padding"),
    ],
)
def test_mistakes_are_told_with_file_line_and_layer(text: str, problem: str) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": .*{problem}'):
        make("Pooling", f"pooling_param {{ {text} }}", (1, 1, 5, 5))


def test_only_maxima_have_places() -> None:
    with pytest.raises(ModelError, match="only MAX"):
        make("Pooling", "pooling_param { pool: AVE kernel_size: 2 }", (1, 1, 5, 5), tops=2)


@pytest.mark.parametrize("kind", ["Pooling", "SPP", "LRN"])
def test_images_have_four_axes(kind: str) -> None:
    with pytest.raises(ModelError, match=r"4 axes .* shape \(2, 3, 4\)"):
        make(kind, "pooling_param { kernel_size: 1 } spp_param { pyramid_height: 1 }", (2, 3, 4))
    assert parse(kind).type == kind
