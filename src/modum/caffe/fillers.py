"""Caffe's fillers, which initialize a layer's parameters and DummyData's blobs.

Below, fan_in of a blob is its number of elements divided by its first dimension, fan_out divided by its second (all
elements if it has but one). `n` is fan_in, fan_out or their mean, as `variance_norm` says.
"""

import math
from collections.abc import Callable

import torch

from modum.caffe.errors import ModelError
from modum.caffe.proto import FillerParameter

__all__ = ["fill"]


def fill(tensor: torch.Tensor, filler: FillerParameter, generator: torch.Generator | None = None) -> None:
    """Fill a tensor in place, as a filler says.

    Args:
        tensor: a tensor of any floating type.
        filler: the filler's definition.
        generator: generator of random numbers; None: torch's default one.

    Raises:
        ModelError: the type is unknown, `sparse` is set with another type than gaussian, or a bilinear filler is for a
            tensor that is not a set of square images. The error has no place in a file.
    """
    if filler.type not in _FILLERS:
        raise ModelError(f'filler "{filler.type}" is not known; there are {", ".join(_FILLERS)}')
    if filler.sparse != -1 and filler.type != "gaussian":
        raise ModelError(f'filler "{filler.type}" cannot be sparse; only gaussian can')
    with torch.no_grad():
        _FILLERS[filler.type](tensor, filler, generator)


def _constant(tensor: torch.Tensor, filler: FillerParameter, generator: torch.Generator | None) -> None:
    tensor.fill_(filler.value)


def _uniform(tensor: torch.Tensor, filler: FillerParameter, generator: torch.Generator | None) -> None:
    tensor.uniform_(filler.min, filler.max, generator=generator)


def _gaussian(tensor: torch.Tensor, filler: FillerParameter, generator: torch.Generator | None) -> None:
    """With `sparse`, each element is kept with the probability sparse / first dimension, and 0 otherwise."""
    tensor.normal_(filler.mean, filler.std, generator=generator)
    if filler.sparse >= 0:
        keep = min(1.0, filler.sparse / tensor.shape[0])
        tensor.mul_(torch.empty_like(tensor).bernoulli_(keep, generator=generator))


def _positive_unitball(tensor: torch.Tensor, filler: FillerParameter, generator: torch.Generator | None) -> None:
    """Uniform, then scaled so that the elements at each index of the first dimension sum to 1."""
    tensor.uniform_(0, 1, generator=generator)
    rows = tensor.view(tensor.shape[0], -1)
    rows.div_(rows.sum(dim=1, keepdim=True))


def _xavier(tensor: torch.Tensor, filler: FillerParameter, generator: torch.Generator | None) -> None:
    """Uniform within sqrt(3 / n) of 0: variance 1 / n (Glorot and Bengio 2010)."""
    bound = math.sqrt(3 / _fan(tensor, filler))
    tensor.uniform_(-bound, bound, generator=generator)


def _msra(tensor: torch.Tensor, filler: FillerParameter, generator: torch.Generator | None) -> None:
    """Gaussian with variance 2 / n (He et al. 2015)."""
    tensor.normal_(0, math.sqrt(2 / _fan(tensor, filler)), generator=generator)


def _bilinear(tensor: torch.Tensor, filler: FillerParameter, generator: torch.Generator | None) -> None:
    """Fill each image with the kernel by which a deconvolution of stride f = ceil(side / 2) interpolates."""
    if tensor.dim() != 4 or tensor.shape[2] != tensor.shape[3]:
        raise ModelError(f'filler "bilinear" needs a blob of four axes, the last two equal, not {list(tensor.shape)}')
    side = tensor.shape[3]
    factor = math.ceil(side / 2)
    center = (side - 1) / (2 * factor)
    weights = 1 - (torch.arange(side, dtype=torch.float64) / factor - center).abs()
    tensor.copy_((weights[:, None] * weights[None, :]).expand_as(tensor))


def _fan(tensor: torch.Tensor, filler: FillerParameter) -> float:
    fan_in = tensor.numel() / (tensor.shape[0] if tensor.dim() > 0 else 1)
    fan_out = tensor.numel() / (tensor.shape[1] if tensor.dim() > 1 else 1)
    if filler.variance_norm == FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if filler.variance_norm == FillerParameter.FAN_OUT else fan_in


_FILLERS: dict[str, Callable[[torch.Tensor, FillerParameter, torch.Generator | None], None]] = {
    "bilinear": _bilinear,
    "constant": _constant,
    "gaussian": _gaussian,
    "msra": _msra,
    "positive_unitball": _positive_unitball,
    "uniform": _uniform,
    "xavier": _xavier,
}
