"""Losses and Accuracy.

Labels are class numbers, stored as floats and truncated to integers. No gradient reaches them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from modum.caffe.arrays import from_blob, parse_file
from modum.caffe.layers.base import Layer, Shape, count, register, run
from modum.caffe.proto import BlobProto, HingeLossParameter, LossParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_PROBABILITY = torch.finfo(torch.float32).tiny
"""The least probability in SoftmaxWithLoss: the loss of a sample never exceeds 87.34."""
LOG_THRESHOLD = 1e-20
"""The same, for MultinomialLogisticLoss and InfogainLoss."""
CLOSE = 1e-4
"""Keeps the gradient of ContrastiveLoss finite for two equal samples."""


class _Limited(torch.autograd.Function):
    """x limited to [low, high], with the gradient of x: Caffe limits probabilities in the loss, not in its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


class Loss(Layer):
    """A loss: its first top is one number, made even if the definition lists no top."""

    bottom_range = (2, 2)
    automatic_tops = True
    is_loss = True
    without_gradient = frozenset({1})

    def same_items(self, bottoms: Sequence[Shape]) -> None:
        """Check that the first two bottoms have the same number of items: the length of axis 0."""
        if not bottoms[0] or bottoms[0][:1] != bottoms[1][:1]:
            raise self.error(
                f"bottoms must have the same first dimension, but have shapes {bottoms[0]} and {bottoms[1]}"
            )

    def one_label_an_item(self, bottoms: Sequence[Shape], label: int = 1) -> None:
        """Check that a bottom has one number for each item of bottom 0."""
        if not bottoms[0] or count(bottoms[label]) != bottoms[0][0]:
            raise self.error(
                f"the labels (bottom {label}) must be one number an item, but have shape {bottoms[label]} "
                f"for predictions of shape {bottoms[0]}"
            )


class NormalizedLoss(Loss):
    """A loss with `loss_param`: ignores a label, and divides the sum of all terms as `normalization` says.

    FULL: by the number of terms; VALID: by the number of those not ignored; BATCH_SIZE: by the number of items;
    NONE: by 1. Never by less than 1. The older `normalize` chooses between VALID and BATCH_SIZE.
    """

    default_normalization = LossParameter.VALID

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.loss_param
        self.ignored = int(param.ignore_label) if param.HasField("ignore_label") else None
        if param.HasField("normalization"):
            self.normalization = param.normalization
        elif param.HasField("normalize"):
            self.normalization = LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
        else:
            self.normalization = self.default_normalization

    def set_terms(self, outer: int, inner: int) -> None:
        """Set the number of terms: `outer` items of `inner` terms each."""
        self.divisor = {
            LossParameter.FULL: outer * inner,
            LossParameter.VALID: outer * inner,
            LossParameter.BATCH_SIZE: outer,
            LossParameter.NONE: 1,
        }[self.normalization]

    def normalized(self, terms: Tensor, labels: Tensor) -> Tensor:
        """Return the normalized sum of `terms`, which are 0 where `labels` are ignored."""
        if self.normalization == LossParameter.VALID and self.ignored is not None:
            return terms.sum() / (labels != self.ignored).sum().clamp(min=1)
        return terms.sum() / max(self.divisor, 1)


class ClassLoss(NormalizedLoss):
    """A loss over the classes along an axis of bottom 0; bottom 1 has a label for each place on the other axes."""

    top_range = (1, 2)

    @abstractmethod
    def class_axis(self) -> int:
        """Return the axis from the definition."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.same_items(bottoms)
        predictions, labels = bottoms[0], bottoms[1]
        self.along = self.axis(self.class_axis(), predictions)
        outer, inner = count(predictions[: self.along]), count(predictions[self.along + 1 :])
        if count(labels) != outer * inner:
            raise self.error(
                f"predictions of shape {predictions} with classes on axis {self.along} want {outer * inner} labels, "
                f"but there are {count(labels)}, shape {labels}"
            )
        self.classes = predictions[self.along]
        self.flat = (outer, self.classes) if inner == 1 else (outer, self.classes, inner)
        self.flat_labels = (outer,) if inner == 1 else (outer, inner)
        self.set_terms(outer, inner)
        return [(), predictions][: self.top_count]

    def with_probabilities(self, loss: Tensor, predictions: Tensor) -> tuple[Tensor, ...]:
        """Return the tops: the loss and, if requested, the predictions' Softmax, without a gradient."""
        return (loss,) if self.top_count == 1 else (loss, torch.softmax(predictions.detach(), self.along))


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(ClassLoss):
    """The negative logarithm of the label's Softmax probability."""

    def class_axis(self) -> int:
        return int(self.spec.softmax_param.axis)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        predictions, labels = bottoms[0], bottoms[1].reshape(self.flat_labels).long()
        nothing = -(2**31) if self.ignored is None else self.ignored
        terms = F.cross_entropy(predictions.reshape(self.flat), labels, ignore_index=nothing, reduction="none")
        terms = run(_Limited, terms, -math.inf, -math.log(LEAST_PROBABILITY))
        return self.with_probabilities(self.normalized(terms, labels), predictions)


@register("InfogainLoss")
class InfogainLoss(ClassLoss):
    """- sum over classes c of H[label, c] log(softmax(x)[c]), with the matrix H from a BlobProto file or bottom 2."""

    bottom_range = (2, 3)
    without_gradient = frozenset({1, 2})
    gains: Tensor

    def class_axis(self) -> int:
        return int(self.spec.infogain_loss_param.axis)

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        super().make(bottoms, generator)
        if len(bottoms) == 2:
            source = self.spec.infogain_loss_param.source
            if not source:
                raise self.error("give the infogain matrix: as source, or as a third bottom")
            gains = from_blob(parse_file(BlobProto(), source), source)
            self.register_buffer("gains", torch.as_tensor(gains, dtype=torch.float32), persistent=False)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        tops = super().reshape(bottoms)
        shape = bottoms[2] if len(bottoms) == 3 else tuple(self.gains.shape)
        if count(shape) != self.classes**2 or shape[-1] != self.classes:
            raise self.error(f"the infogain matrix must be {self.classes} x {self.classes}, but has shape {shape}")
        return tops

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        predictions, labels = bottoms[0], bottoms[1].reshape(self.flat_labels).long()
        gains = (bottoms[2] if len(bottoms) == 3 else self.gains).detach().reshape(self.classes, self.classes)
        logs = F.log_softmax(predictions.reshape(self.flat), 1)
        logs = run(_Limited, logs, math.log(LOG_THRESHOLD), math.inf)
        valid = None if self.ignored is None else labels != self.ignored
        rows = gains[labels if valid is None else torch.where(valid, labels, 0)]
        terms = -(rows.movedim(-1, 1) * logs).sum(1)
        if valid is not None:
            terms = torch.where(valid, terms, 0)
        return self.with_probabilities(self.normalized(terms, labels), predictions)


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(NormalizedLoss):
    """Cross entropy of sigmoid(x) and targets in [0, 1], over all elements; by default divided by the batch size."""

    default_normalization = LossParameter.BATCH_SIZE

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.same_items(bottoms)
        if count(bottoms[0]) != count(bottoms[1]):
            raise self.error(f"bottoms must have as many elements, but have shapes {bottoms[0]} and {bottoms[1]}")
        self.set_terms(bottoms[0][0], count(bottoms[0][1:]))
        return [()]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        targets = bottoms[1].detach().reshape(bottoms[0].shape)
        terms = F.binary_cross_entropy_with_logits(bottoms[0], targets, reduction="none")
        if self.ignored is not None:
            targets = targets.long()
            terms = torch.where(targets == self.ignored, 0, terms)
        return (self.normalized(terms, targets),)


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """The negative logarithm of the label's probability in bottom 0, averaged over the items."""

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.same_items(bottoms)
        self.one_label_an_item(bottoms)
        return [()]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        labels = bottoms[1].reshape(-1, 1).long()
        chosen = bottoms[0].flatten(1).gather(1, labels)
        return (-run(_Limited, chosen, LOG_THRESHOLD, math.inf).log().sum() / len(labels),)


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """The squared distance between two bottoms, divided by twice the number of items; both get a gradient."""

    without_gradient = frozenset()

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.same_items(bottoms)
        if count(bottoms[0]) != count(bottoms[1]):
            raise self.error(f"items must have as many elements, but bottoms have shapes {bottoms[0]} and {bottoms[1]}")
        return [()]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        difference = bottoms[0] - bottoms[1].reshape(bottoms[0].shape)
        return (difference.square().sum() / (2 * len(difference)),)


@register("HingeLoss")
class HingeLoss(Loss):
    """The mean over items of the sum, over classes, of margins (L1) or their squares (L2).

    The margin is max(0, 1 - x) for the label's class and max(0, 1 + x) for the others.
    """

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        self.same_items(bottoms)
        self.one_label_an_item(bottoms)
        self.squared = self.spec.hinge_loss_param.norm == HingeLossParameter.L2
        return [()]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x, labels = bottoms[0].flatten(1), bottoms[1].reshape(-1, 1).long()
        margins = torch.relu(1 + x * torch.ones_like(x).scatter_(1, labels, -1.0))
        return ((margins.square() if self.squared else margins).sum() / len(x),)


class _Contrastive(torch.autograd.Function):
    """The loss with Caffe's gradient: of dissimilar pairs divided by distance + 1e-4, and 0 from the margin on."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, similar: Tensor, margin: float, legacy: bool) -> Tensor:
        difference = a - b
        squares = difference.square().sum(1)
        if legacy:
            room = margin - squares
            terms, factors = room.clamp(min=0), -torch.ones_like(room)
        else:
            distance = squares.sqrt()
            room = margin - distance
            terms, factors = room.clamp(min=0).square(), -room / (distance + CLOSE)
        factors = torch.where(similar, 1, torch.where(room > 0, factors, 0))
        ctx.save_for_backward(difference * factors[:, None])
        return torch.where(similar, squares, terms).sum() / (2 * len(a))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (direction,) = ctx.saved_tensors
        toward = direction * (grad / len(direction))
        return toward, -toward, None, None, None


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """For pairs of features (N, C): d^2 for similar ones, max(margin - d, 0)^2 for others, mean over pairs, halved.

    Hadsell, Chopra and LeCun 2006; `legacy_version` has max(margin - d^2, 0).
    """

    bottom_range = (3, 3)
    without_gradient = frozenset({2})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        first, second = bottoms[:2]
        if len(first) < 2 or first[:2] != second[:2] or count(first[2:]) != 1 or count(second[2:]) != 1:
            raise self.error(f"bottoms 0 and 1 must be alike, (items, features), but have shapes {first} and {second}")
        self.one_label_an_item(bottoms, 2)
        param = self.spec.contrastive_loss_param
        self.margin, self.legacy = param.margin, bool(param.legacy_version)
        return [()]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        similar = bottoms[2].reshape(-1).long() != 0
        return (run(_Contrastive, bottoms[0].flatten(1), bottoms[1].flatten(1), similar, self.margin, self.legacy),)


@register("Accuracy")
class Accuracy(Layer):
    """The fraction of labels whose class is among the top_k best predictions; a second top has it for each class.

    A class is among them if fewer than top_k others are predicted as high or higher: a tie counts against the label.
    """

    bottom_range = (2, 2)
    top_range = (1, 2)
    without_gradient = frozenset({0, 1})

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.accuracy_param
        self.top_k = param.top_k
        self.ignored = int(param.ignore_label) if param.HasField("ignore_label") else None

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        predictions, labels = bottoms
        along = self.axis(self.spec.accuracy_param.axis, predictions)
        self.classes = predictions[along]
        outer, inner = count(predictions[:along]), count(predictions[along + 1 :])
        if not 1 <= self.top_k <= self.classes:
            raise self.error(f"top_k ({self.top_k}) must be between 1 and {self.classes}, the number of classes")
        if count(labels) != outer * inner:
            raise self.error(
                f"predictions of shape {predictions} with classes on axis {along} want {outer * inner} labels, "
                f"but there are {count(labels)}, shape {labels}"
            )
        self.flat = (outer, self.classes, inner)
        return [(), (self.classes,)][: self.top_count]

    @torch.no_grad()
    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        predictions = bottoms[0].reshape(self.flat)
        labels = bottoms[1].reshape(self.flat[0], 1, self.flat[2]).long()
        valid = torch.ones_like(labels, dtype=torch.bool) if self.ignored is None else labels != self.ignored
        labels = torch.where(valid, labels, 0)
        others = (predictions >= predictions.gather(1, labels)).sum(1, keepdim=True) - 1
        right = ((others < self.top_k) & valid).to(predictions.dtype)
        share = right.sum() / valid.sum().clamp(min=1)
        if self.top_count == 1:
            return (share,)
        sums = torch.zeros(2, self.classes, dtype=predictions.dtype, device=predictions.device)
        sums[0].index_add_(0, labels.flatten(), right.flatten())
        sums[1].index_add_(0, labels.flatten(), valid.to(predictions.dtype).flatten())
        return share, sums[0] / sums[1].clamp(min=1)
