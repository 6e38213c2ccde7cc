"""Fillers: their ranges, their moments, and the kernel that interpolates."""

import math

import pytest
import torch

from modum.caffe.errors import ModelError
from modum.caffe.fillers import fill
from modum.caffe.proto import FillerParameter

SHAPE = (40, 30, 5, 4)  # fan_in 600, fan_out 800
COUNT = math.prod(SHAPE)


def filled(shape: tuple[int, ...] = SHAPE, **settings: object) -> torch.Tensor:
    tensor = torch.full(shape, math.nan, dtype=torch.float64)
    fill(tensor, FillerParameter(**settings), torch.Generator().manual_seed(1))
    return tensor


def check_uniform(tensor: torch.Tensor, low: float, high: float) -> None:
    """All within the bounds and close to both; the variance within 3 % of (high - low)^2 / 12."""
    assert low <= tensor.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < tensor.max() <= high
    assert tensor.var().item() == pytest.approx((high - low) ** 2 / 12, rel=0.03)


def check_gaussian(tensor: torch.Tensor, mean: float, std: float) -> None:
    """Moments within five standard errors, and as many beyond two deviations as there should be."""
    assert tensor.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(tensor.numel()))
    assert tensor.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * tensor.numel()))
    assert ((tensor - mean).abs() > 2 * std).double().mean().item() == pytest.approx(0.0455, rel=0.15)


def test_constant_is_the_default_and_zero() -> None:
    assert torch.equal(filled(), torch.zeros(SHAPE, dtype=torch.float64))
    assert torch.equal(filled((3,), type="constant", value=0.25), torch.full((3,), 0.25, dtype=torch.float64))


def test_uniform_lies_between_its_bounds() -> None:
    check_uniform(filled(type="uniform"), 0, 1)
    check_uniform(filled(type="uniform", min=-3, max=-1), -3, -1)


def test_gaussian_has_its_mean_and_deviation() -> None:
    check_gaussian(filled(type="gaussian", mean=2, std=0.5), 2, 0.5)


def test_sparse_keeps_as_many_as_asked_for_of_each_input() -> None:
    tensor = filled(type="gaussian", std=0.1, sparse=10)
    kept = tensor[tensor != 0]
    assert kept.numel() / COUNT == pytest.approx(10 / 40, rel=0.05)
    check_gaussian(kept, 0, 0.1)
    assert filled((4, 9), type="gaussian", sparse=0).count_nonzero() == 0


def test_positive_unitball_sums_to_one() -> None:
    tensor = filled(type="positive_unitball")
    assert tensor.min() >= 0
    torch.testing.assert_close(tensor.sum(dim=(1, 2, 3)), torch.ones(40, dtype=torch.float64))


@pytest.mark.parametrize(("norm", "fan"), [("FAN_IN", 600), ("FAN_OUT", 800), ("AVERAGE", 700)])
def test_xavier_and_msra_scale_by_the_fan_that_is_asked_for(norm: str, fan: int) -> None:
    bound = math.sqrt(3 / fan)
    check_uniform(filled(type="xavier", variance_norm=norm), -bound, bound)
    check_gaussian(filled(type="msra", variance_norm=norm), 0, math.sqrt(2 / fan))


def test_a_vector_has_its_length_as_fan_out() -> None:
    bound = math.sqrt(3 / 10000)
    check_uniform(filled((10000,), type="xavier", variance_norm="FAN_OUT"), -bound, bound)
    check_uniform(filled((10000,), type="xavier"), -math.sqrt(3), math.sqrt(3))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bilinear_interpolates(factor: int) -> None:
    """A deconvolution with this kernel enlarges a plane without changing it, away from the edges."""
    side, pad = 2 * factor - factor % 2, math.ceil((factor - 1) / 2)
    kernel = filled((2, 1, side, side), type="bilinear")
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = (2 * rows - 3 * columns + 1).double().expand(1, 2, -1, -1)
    large = torch.nn.functional.conv_transpose2d(plane, kernel, stride=factor, padding=pad, groups=2)
    positions = [(torch.arange(length, dtype=torch.float64) + 0.5) / factor - 0.5 for length in large.shape[2:]]
    expected = 2 * positions[0][:, None] - 3 * positions[1][None, :] + 1
    inside = slice(factor, -factor)
    torch.testing.assert_close(large[0, 1, inside, inside], expected[inside, inside])


def test_the_generator_alone_decides_the_numbers() -> None:
    for kind in ("uniform", "gaussian", "positive_unitball", "xavier", "msra"):
        torch.manual_seed(hash(kind) % 1000)
        assert torch.equal(filled((5, 6), type=kind), filled((5, 6), type=kind))


def test_a_parameter_is_filled_in_place() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, 2))
    fill(parameter, FillerParameter(type="constant", value=2))
    assert parameter.tolist() == [[2, 2]] * 3
    assert parameter.grad_fn is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "gausian"}, 'filler "gausian" is not known; there are bilinear, constant, gaussian, msra'),
        ({"type": "xavier", "sparse": 3}, 'filler "xavier" cannot be sparse'),
        ({"type": "bilinear"}, r"needs a blob of four axes, the last two equal, not \[40, 30, 5, 4\]"),
    ],
)
def test_what_caffe_would_not_fill_is_an_error(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        filled(SHAPE, **settings)
