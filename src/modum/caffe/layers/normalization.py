"""LRN, BatchNorm and MVN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from modum.caffe.layers.base import Layer, Shape, count, register, run
from modum.caffe.proto import TEST, LRNParameter, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from modum.caffe.layers.common import Scale


class _AcrossChannels(torch.autograd.Function):
    """y = x s^-beta, s = k + alpha / size * (sum of x^2 over `size` neighbouring channels); Krizhevsky et al. 2012."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        s = mean_of_channels(x.square(), size).mul_(alpha).add_(k)
        factor = s.pow(-beta)
        y = x * factor
        ctx.save_for_backward(x, s, factor)
        ctx.settings = size, alpha, beta
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, s, factor = ctx.saved_tensors
        size, alpha, beta = ctx.settings
        straight = grad * factor
        ratio = (straight * x).div_(s)
        return straight.addcmul_(mean_of_channels(ratio, size), x, value=-2 * alpha * beta), None, None, None, None


def mean_of_channels(x: Tensor, size: int) -> Tensor:
    """(N, C, ...): the sum over each channel and its (size - 1) / 2 neighbours on both sides, divided by `size`."""
    images, channels = x.shape[:2]
    lines = x.reshape(images, 1, channels, -1)
    return F.avg_pool2d(lines, (size, 1), stride=1, padding=(size // 2, 0)).reshape(x.shape)


@register("LRN")
class LRN(Layer):
    """Local response normalization, across channels or within a channel's square neighbourhood (k is 1 there)."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.lrn_param
        if param.local_size % 2 == 0:
            raise self.error(f"local_size ({param.local_size}) must be odd")
        self.size, self.alpha, self.beta, self.k = param.local_size, param.alpha, param.beta, param.k
        self.within = param.norm_region == LRNParameter.WITHIN_CHANNEL

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if len(bottoms[0]) != 4:
            raise self.error(f"bottom must have 4 axes (images, channels, height, width), but has shape {bottoms[0]}")
        return [bottoms[0]]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        (x,) = bottoms
        if self.within:
            mean = F.avg_pool2d(x.square(), self.size, 1, self.size // 2)
            return (x * (1 + self.alpha * mean).pow(-self.beta),)
        return (run(_AcrossChannels, x, self.size, self.alpha, self.beta, self.k),)


@register("BatchNorm")
class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + eps) for each channel (axis 1); the affine part is a separate Scale layer.

    The blobs are running sums, not averages: mean (C), unbiased variance (C), and the factor (1) by which both must be
    divided; each forward pass in TRAIN multiplies all three by `moving_average_fraction` and adds the batch's mean,
    variance and 1. They are statistics: no gradient, and learning rate 0.
    """

    keeps_state = True

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.batch_norm_param
        self.eps, self.fraction = param.eps, param.moving_average_fraction
        self.use_global_stats = self.phase == TEST
        if param.HasField("use_global_stats"):
            self.use_global_stats = bool(param.use_global_stats)
        self.channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
        for shape in (self.channels,), (self.channels,), (1,):
            self.add_blob(shape, None, None).requires_grad_(False)
        for index in range(3):
            if index == len(self.spec.param):
                self.spec.param.append(ParamSpec(lr_mult=0.0))
            elif self.spec.param[index].lr_mult != 0:
                raise self.error(f"param {index} has lr_mult {self.spec.param[index].lr_mult:g}: statistics want 0")
        self.affine: Scale | None = None

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        if (bottom[1] if len(bottom) > 1 else 1) != self.channels:
            raise self.error(f"bottom has shape {bottom}, but there are statistics for {self.channels} channels")
        self.flat = len(bottom) == 1
        self.samples = count(bottom) // max(self.channels, 1)
        return [bottom]

    def absorb(self, scale: Scale) -> bool:
        """Take over the affine part of a Scale layer, which then returns its bottom unchanged.

        Use it if the Scale layer takes only this layer's top, works in place, and no other layer reads the
        blob in between: the values stay the same up to rounding, with one pass over memory instead of three.

        Args:
            scale: the following layer.

        Returns:
            Whether that was possible. If not, nothing changes.
        """
        if self.flat or not scale.is_per_channel:
            return False
        self.affine = scale
        scale.absorbed = True
        return True

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x = bottoms[0][:, None] if self.flat else bottoms[0]
        weight: nn.Parameter | None = None
        bias: nn.Parameter | None = None
        if self.affine is not None:
            weight = self.affine.blobs[0]
            bias = self.affine.blobs[1] if self.affine.with_bias else None
        if self.use_global_stats:
            factor = self.blobs[2]
            inverse = torch.where(factor == 0, factor, 1 / factor)
            mean, variance = self.blobs[0] * inverse, self.blobs[1] * inverse
            y = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=self.eps)
        elif self.samples > 1:
            # With momentum 1 the running statistics are the batch's own, the variance unbiased, as Caffe stores it.
            mean, variance = torch.zeros_like(self.blobs[0]), torch.zeros_like(self.blobs[1])
            y = torch.batch_norm(x, weight, bias, mean, variance, True, 1.0, self.eps, torch.backends.cudnn.enabled)
            self._gather(mean, variance)
        else:
            self._gather(x.detach().reshape(self.channels), torch.zeros_like(self.blobs[1]))
            y = x - x
            if self.affine is not None:
                y = self.affine.scale_and_shift(y)
        return (y[:, 0] if self.flat else y,)

    @torch.no_grad()
    def _gather(self, mean: Tensor, variance: Tensor) -> None:
        for blob, new in zip(self.blobs, (mean, variance, 1.0), strict=True):
            blob.mul_(self.fraction).add_(new)


class _MeanVariance(torch.autograd.Function):
    """(x - mean) / (sqrt(variance) + eps) of each row, and its gradient as if eps were under the root's derivative.

    That is Caffe's: exact for eps = 0, and finite where a row is constant.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y = x - x.mean(1, keepdim=True)
        deviation = y.square().mean(1, keepdim=True).sqrt_().add_(eps)
        y /= deviation
        ctx.save_for_backward(y, deviation)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, deviation = ctx.saved_tensors
        centred = grad - grad.mean(1, keepdim=True) - y * (grad * y).mean(1, keepdim=True)
        return centred / deviation, None


@register("MVN")
class MVN(Layer):
    """Subtracts the mean and divides by the standard deviation, of each channel or (across_channels) each image."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        (bottom,) = bottoms
        if not 1 <= len(bottom) <= 4:
            raise self.error(f"bottom must have 1 to 4 axes, but has shape {bottom}")
        self.top = (*bottom, *(1,) * (4 - len(bottom)))
        param = self.spec.mvn_param
        self.rows = self.top[0] if param.across_channels else self.top[0] * self.top[1]
        self.normalize_variance, self.eps = bool(param.normalize_variance), param.eps
        return [self.top]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x = bottoms[0].reshape(self.rows, -1)
        y = run(_MeanVariance, x, self.eps) if self.normalize_variance else x - x.mean(1, keepdim=True)
        return (y.reshape(self.top),)
