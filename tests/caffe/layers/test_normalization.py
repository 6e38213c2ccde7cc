"""LRN, BatchNorm and MVN against NumPy and OpenCV; the statistics of BatchNorm; BatchNorm and Scale in one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modum.caffe import TEST, ModelError
from modum.caffe.layers.common import Scale
from modum.caffe.layers.normalization import BatchNorm
from tests.caffe.layers.support import Array, assert_like_opencv, by_opencv, check_gradients, compute, make, random


def neighbourhood(squares: Array, size: int, within: bool) -> Array:
    """The sum over `size` channels, or `size` x `size` places, around each element."""
    half = size // 2
    axes = (2, 3) if within else (1,)
    total = np.pad(squares, [(half, half) if axis in axes else (0, 0) for axis in range(4)])
    for axis in axes:
        length = squares.shape[axis]
        total = sum((np.take(total, range(i, i + length), axis) for i in range(size)), np.zeros(()))
    return total


@pytest.mark.parametrize("within", [False, True])
@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 6), st.integers(1, 6)),
    size=st.sampled_from([1, 3, 5, 7]),
    beta=st.sampled_from([0.75, 0.5, 1.5]),
    k=st.sampled_from([1.0, 2.0]),
)
def test_lrn_is_its_definition(within: bool, shape: tuple[int, ...], size: int, beta: float, k: float) -> None:
    x = random(*shape)
    region = "WITHIN_CHANNEL" if within else "ACROSS_CHANNELS"
    fields = f"lrn_param {{ local_size: {size} alpha: 0.5 beta: {beta} k: {k} norm_region: {region} }}"
    (top,) = compute("LRN", fields, x)
    mean = neighbourhood(x.numpy() ** 2, size, within) / (size**2 if within else size)
    expected = x.numpy() * ((1 if within else k) + 0.5 * mean) ** -beta
    np.testing.assert_allclose(top.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("region", ["WITHIN_CHANNEL", "ACROSS_CHANNELS"])
def test_lrn_is_as_in_opencv(region: str) -> None:
    assert_like_opencv("LRN", f"lrn_param {{ local_size: 3 alpha: 0.7 norm_region: {region} }}", random(2, 5, 6, 7))


@pytest.mark.parametrize("region", ["WITHIN_CHANNEL", "ACROSS_CHANNELS"])
@pytest.mark.parametrize("shape", [(2, 4, 3, 2), (1, 1, 4, 4)])
def test_gradients_of_lrn(region: str, shape: tuple[int, ...]) -> None:
    check_gradients("LRN", f"lrn_param {{ local_size: 3 alpha: 2 k: 1.5 norm_region: {region} }}", random(*shape))


def test_lrn_wants_an_odd_size() -> None:
    with pytest.raises(ModelError, match=r"tested.*local_size \(4\) must be odd"):
        make("LRN", "lrn_param { local_size: 4 }", (1, 2, 3, 3))


def normalized(x: Array, eps: float) -> tuple[Array, Array, Array]:
    """x for mean 0 and variance 1 in each channel; the mean, and the unbiased variance."""
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    mean, biased = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    samples = x.size // x.shape[1]
    return (x - mean) / np.sqrt(biased + eps), mean.ravel(), biased.ravel() * samples / (samples - 1)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 3)])
def test_batch_norm_gathers_decaying_sums(shape: tuple[int, ...]) -> None:
    layer, _ = make("BatchNorm", "batch_norm_param { moving_average_fraction: 0.9 eps: 0.01 }", shape)
    layer.double()
    sums = [np.zeros(3), np.zeros(3), np.zeros(1)]
    for _ in range(3):
        x = random(*shape)
        expected, mean, variance = normalized(x.numpy(), 0.01)
        np.testing.assert_allclose(layer(x)[0].numpy(), expected, atol=1e-12)
        sums = [old * float(np.float32(0.9)) + new for old, new in zip(sums, (mean, variance, np.ones(1)), strict=True)]
        for blob, expected_sum in zip(layer.blobs, sums, strict=True):
            np.testing.assert_allclose(blob.numpy(), expected_sum, rtol=1e-12)


def test_batch_norm_divides_its_sums_by_their_factor_in_test() -> None:
    layer, _ = make("BatchNorm", "", (2, 3, 4, 4), phase=TEST)
    x = random(2, 3, 4, 4).float()
    for blob, value in zip(layer.blobs, ([2.0, 4.0, 6.0], [8.0, 2.0, 18.0], [2.0]), strict=True):
        blob.copy_(torch.tensor(value))
    mean, variance = (torch.tensor(value).reshape(1, 3, 1, 1) for value in ([1.0, 2.0, 3.0], [4.0, 1.0, 9.0]))
    torch.testing.assert_close(layer(x)[0], (x - mean) / (variance + 1e-5).sqrt())
    assert layer.blobs[2].item() == 2


def test_batch_norm_without_statistics_divides_by_eps() -> None:
    layer, _ = make("BatchNorm", "batch_norm_param { use_global_stats: true eps: 0.25 }", (2, 3, 4, 4))
    x = random(2, 3, 4, 4).float()
    torch.testing.assert_close(layer(x)[0], x * 2)


def test_batch_norm_of_one_sample_is_zero_and_has_no_variance() -> None:
    layer, _ = make("BatchNorm", "", (1, 3))
    x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    (y,) = layer(x)
    assert y.tolist() == [[0, 0, 0]]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [[0, 0, 0]]
    assert [blob.tolist() for blob in layer.blobs] == [[1, 2, 3], [0, 0, 0], [1]]


def test_batch_norm_forgets_a_batch_that_was_not_finite() -> None:
    layer, _ = make("BatchNorm", "", (2, 1))
    layer(torch.tensor([[torch.nan], [1.0]]))
    layer.blobs[0].zero_()
    layer(torch.tensor([[1.0], [3.0]]))
    assert layer.blobs[0].item() == 2


@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 3, 2), (5,)])
@pytest.mark.parametrize("fields", ["", "batch_norm_param { use_global_stats: true eps: 0.5 }"])
def test_gradients_of_batch_norm(shape: tuple[int, ...], fields: str) -> None:
    check_gradients("BatchNorm", fields, random(*shape))


def test_batch_norm_is_as_in_opencv() -> None:
    layer, _ = make("BatchNorm", "", (2, 3, 4, 5), phase=TEST)
    x = random(2, 3, 4, 5)
    for blob, value in zip(layer.blobs, ([2.0, 4.0, 6.0], [8.0, 2.0, 18.0], [2.0]), strict=True):
        blob.copy_(torch.tensor(value))
    np.testing.assert_allclose(layer(x.float())[0].numpy(), by_opencv(layer, [x]), atol=1e-5)


def test_statistics_are_parameters_that_do_not_learn() -> None:
    layer, _ = make("BatchNorm", "", (2, 3, 4, 4))
    assert [tuple(blob.shape) for blob in layer.blobs] == [(3,), (3,), (1,)]
    assert [blob.requires_grad for blob in layer.blobs] == [False] * 3
    assert [param.lr_mult for param in layer.spec.param] == [0, 0, 0]
    layer, _ = make("BatchNorm", "param { lr_mult: 0 decay_mult: 0 }", (2, 3, 4, 4))
    assert [param.lr_mult for param in layer.spec.param] == [0, 0, 0]
    with pytest.raises(ModelError, match=r"tested.*param 1 has lr_mult 1"):
        make("BatchNorm", "param { lr_mult: 0 } param { lr_mult: 1 }", (2, 3, 4, 4))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fields", ["", "batch_norm_param { use_global_stats: true }"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (1, 3, 1, 1)])
def test_an_absorbed_scale_gives_the_same_numbers_and_gradients(
    bias: bool, fields: str, shape: tuple[int, ...]
) -> None:
    results = []
    for absorb in (False, True):
        norm, _ = make("BatchNorm", fields, shape)
        scale, _ = make("Scale", f"scale_param {{ bias_term: {str(bias).lower()} }}", shape)
        norm.double()
        scale.double()
        for blob in norm.blobs:
            blob.fill_(2.0)
        assert isinstance(norm, BatchNorm)
        assert isinstance(scale, Scale)
        if absorb:
            assert norm.absorb(scale)
        torch.manual_seed(1)
        x = random(*shape).requires_grad_()
        (y,) = scale(norm(x)[0])
        gradients = torch.autograd.grad((y * y.detach().cos()).sum(), [x, *scale.blobs])
        results.append([y, *gradients, *norm.blobs])
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "fields", ["scale_param { axis: 2 }", "scale_param { num_axes: 2 }", "scale_param { axis: 0 }"]
)
def test_only_a_scale_of_channels_is_absorbed(fields: str) -> None:
    norm, _ = make("BatchNorm", "", (3, 3, 3, 3))
    scale, _ = make("Scale", fields, (3, 3, 3, 3))
    assert isinstance(norm, BatchNorm)
    assert isinstance(scale, Scale)
    assert not norm.absorb(scale)
    x = random(3, 3, 3, 3).float()
    assert not torch.equal(scale(x)[0], x)


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("variance", [True, False])
def test_mvn_is_its_definition(across: bool, variance: bool) -> None:
    x = random(2, 3, 4, 5)
    fields = (
        f"mvn_param {{ across_channels: {str(across).lower()} normalize_variance: {str(variance).lower()} eps: 0.1 }}"
    )
    axes = (1, 2, 3) if across else (2, 3)
    expected = x.numpy() - x.numpy().mean(axes, keepdims=True)
    if variance:
        expected /= expected.std(axes, keepdims=True) + float(np.float32(0.1))
    np.testing.assert_allclose(compute("MVN", fields, x)[0].numpy(), expected, atol=1e-12)
    check_gradients("MVN", fields.replace("0.1", "1e-12"), random(2, 2, 3, 2))


@pytest.mark.parametrize("across", ["true", "false"])
def test_mvn_is_as_in_opencv(across: str) -> None:
    assert_like_opencv("MVN", f"mvn_param {{ across_channels: {across} }}", random(2, 3, 4, 5))


def test_the_gradient_of_mvn_is_finite_for_constants() -> None:
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    (y,) = compute("MVN", "", x)
    (gradient,) = torch.autograd.grad(y[0, 0, 0, 0], x)
    assert y.tolist() == [[[[0, 0], [0, 0]]]]
    np.testing.assert_allclose(gradient.flatten(), np.array([0.75, -0.25, -0.25, -0.25]) / 1e-9, rtol=1e-6)


def test_mvn_makes_four_axes() -> None:
    assert compute("MVN", "mvn_param { across_channels: true }", random(2, 3))[0].shape == (2, 3, 1, 1)
    with pytest.raises(ModelError, match="1 to 4 axes"):
        make("MVN", "", (1, 1, 1, 1, 1))
