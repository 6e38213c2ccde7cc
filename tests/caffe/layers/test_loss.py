"""Losses and Accuracy against loops over their definitions, their gradients, and OpenCV where it has them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modum.caffe import ModelError
from modum.caffe.arrays import to_blob
from modum.caffe.proto import BlobProto
from tests.caffe.layers.support import Array, check_gradients, compute, make, random

MODES = {
    "": "VALID",
    "normalization: FULL": "FULL",
    "normalization: VALID": "VALID",
    "normalization: BATCH_SIZE": "BATCH_SIZE",
    "normalization: NONE": "NONE",
    "normalize: true": "VALID",
    "normalize: false": "BATCH_SIZE",
    "normalize: false normalization: FULL": "FULL",
}


def divisor(mode: str, outer: int, inner: int, valid: int) -> int:
    return max({"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer, "NONE": 1}[mode], 1)


def columns(x: Array, axis: int) -> Iterator[Array]:
    """The classes' numbers at each place of the other axes, in the order of the labels."""
    return iter(np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    return powers / powers.sum()  # type: ignore[no-any-return]


def some_labels(shape: tuple[int, ...], classes: int, axis: int) -> Tensor:
    places = [size for at, size in enumerate(shape) if at != axis % len(shape)]
    return torch.randint(classes, places).double()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ignore", [None, 1, -1])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3), 1), ((2, 3, 2, 2), 1), ((2, 2, 3), -1), ((2, 3, 1, 1), 1)])
def test_softmax_with_loss(mode: str, ignore: int | None, shape: tuple[int, ...], axis: int) -> None:
    x, labels = random(*shape, low=-3, high=3), some_labels(shape, 3, axis)
    labels.view(-1)[0] = 0
    if ignore is not None:
        labels.view(-1)[-1] = ignore
    ignored = "" if ignore is None else f"ignore_label: {ignore}"
    fields = f"softmax_param {{ axis: {axis} }} loss_param {{ {mode} {ignored} }}"
    total, valid = 0.0, 0
    for row, label in zip(columns(x.numpy(), axis), labels.flatten().int().tolist(), strict=True):
        if label != ignore:
            total -= np.log(softmax(row)[label])
            valid += 1
    outer = int(np.prod(shape[: axis % len(shape)]))
    expected = total / divisor(MODES[mode], outer, labels.numel() // outer, valid)
    loss, probabilities = compute("SoftmaxWithLoss", fields, x, labels, tops=2)
    np.testing.assert_allclose(loss.item(), expected)
    torch.testing.assert_close(probabilities, torch.softmax(x, axis))
    check_gradients("SoftmaxWithLoss", fields, x, labels)


def test_nothing_to_learn_from_is_divided_by_one() -> None:
    x, labels = random(2, 3).requires_grad_(), torch.tensor([1.0, 1.0])
    for kind in "SoftmaxWithLoss", "InfogainLoss":
        bottoms = (x, labels, torch.eye(3).double()) if kind == "InfogainLoss" else (x, labels)
        (loss,) = compute(kind, "loss_param { ignore_label: 1 }", *bottoms)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, x)[0].tolist() == [[0] * 3] * 2


def test_a_loss_never_exceeds_that_of_the_smallest_probability_but_its_gradient_goes_on() -> None:
    x = torch.tensor([[0.0, 200.0], [0.0, torch.inf]], requires_grad=True)
    (loss,) = compute("SoftmaxWithLoss", "", x[:1], torch.zeros(1))
    assert loss.item() == pytest.approx(87.33655, abs=1e-4)
    assert torch.autograd.grad(loss, x)[0][0].tolist() == [-1, 1]


def test_a_loss_of_nothing_finite_is_not_hidden() -> None:
    (loss,) = compute("SoftmaxWithLoss", "", torch.tensor([[0.0, torch.nan]]), torch.zeros(1))
    assert loss.isnan()


def test_labels_are_cut_to_integers() -> None:
    x = random(2, 3)
    whole = compute("SoftmaxWithLoss", "", x, torch.tensor([1.0, 2.0]))
    assert torch.equal(compute("SoftmaxWithLoss", "", x, torch.tensor([1.9, 2.1]))[0], whole[0])


@pytest.mark.parametrize("mode", ["", "normalization: FULL", "normalization: BATCH_SIZE"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3), 1), ((2, 3, 2, 2), 1), ((2, 2, 3), -1)])
def test_infogain(mode: str, shape: tuple[int, ...], axis: int) -> None:
    x, labels, gains = random(*shape, low=-3, high=3), some_labels(shape, 3, axis), random(1, 1, 3, 3)
    labels.view(-1)[-1] = 7
    fields = f"infogain_loss_param {{ axis: {axis} }} loss_param {{ ignore_label: 7 {mode} }}"
    total, valid = 0.0, 0
    for row, label in zip(columns(x.numpy(), axis), labels.flatten().int().tolist(), strict=True):
        if label != 7:
            total -= (gains[0, 0, label].numpy() * np.log(softmax(row))).sum()
            valid += 1
    outer = int(np.prod(shape[: axis % len(shape)]))
    expected = total / divisor(MODES[mode], outer, labels.numel() // outer, valid)
    loss, probabilities = compute("InfogainLoss", fields, x, labels, gains, tops=2)
    np.testing.assert_allclose(loss.item(), expected)
    torch.testing.assert_close(probabilities, torch.softmax(x, axis))
    check_gradients("InfogainLoss", fields, x, labels, gains)


def test_the_infogain_matrix_may_come_from_a_file(tmp_path: Path) -> None:
    x, labels, gains = random(4, 3), torch.tensor([0.0, 1, 2, 1]), random(1, 1, 3, 3).float()
    proto = BlobProto()
    to_blob(gains.numpy(), proto)
    path = tmp_path / "gains.binaryproto"
    path.write_bytes(proto.SerializeToString())
    (loss,) = compute("InfogainLoss", f'infogain_loss_param {{ source: "{path}" }}', x, labels)
    assert torch.equal(loss, compute("InfogainLoss", "", x, labels, gains.double())[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ignore", [None, 1])
def test_sigmoid_cross_entropy(mode: str, ignore: int | None) -> None:
    x, targets = random(3, 2, 2, low=-4, high=4), random(3, 2, 2, low=0)
    targets[0, 0] = torch.tensor([0, 1])
    ignored = "" if ignore is None else f"ignore_label: {ignore}"
    keep = np.ones((3, 2, 2), bool) if ignore is None else targets.int().numpy() != ignore
    p, t = 1 / (1 + np.exp(-x.numpy())), targets.numpy()
    total = -(t * np.log(p) + (1 - t) * np.log(1 - p))[keep].sum()
    expected = total / divisor(MODES[mode] if mode else "BATCH_SIZE", 3, 4, int(keep.sum()))
    fields = f"loss_param {{ {mode} {ignored} }}"
    np.testing.assert_allclose(compute("SigmoidCrossEntropyLoss", fields, x, targets)[0].item(), expected)
    check_gradients("SigmoidCrossEntropyLoss", fields, x, targets)


def test_sigmoid_cross_entropy_of_large_numbers_is_finite() -> None:
    x = torch.tensor([[-1000.0, 1000.0]])
    assert compute("SigmoidCrossEntropyLoss", "", x, torch.tensor([[1.0, 1.0]]))[0].item() == 1000


def test_multinomial_logistic() -> None:
    p, labels = random(3, 2, 2, low=0.1), torch.tensor([0.0, 3.0, 2.0])
    rows = p.numpy().reshape(3, 4)
    expected = -np.log(rows[range(3), [0, 3, 2]]).mean()
    np.testing.assert_allclose(compute("MultinomialLogisticLoss", "", p, labels)[0].item(), expected)
    check_gradients("MultinomialLogisticLoss", "", p, labels)


def test_a_probability_of_nothing_has_a_steep_gradient() -> None:
    p = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (loss,) = compute("MultinomialLogisticLoss", "", p, torch.zeros(1))
    assert loss.item() == pytest.approx(-np.log(1e-20))
    assert torch.autograd.grad(loss, p)[0].tolist() == [[pytest.approx(-1e20), 0]]


def test_euclidean() -> None:
    a, b = random(3, 2, 2), random(3, 4, low=-2)
    expected = ((a.numpy().reshape(3, 4) - b.numpy()) ** 2).sum() / 6
    np.testing.assert_allclose(compute("EuclideanLoss", "", a, b)[0].item(), expected)
    check_gradients("EuclideanLoss", "", a, b, differentiable=(0, 1))


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hinge(norm: str) -> None:
    x, labels = random(3, 2, 2, low=-3, high=3), torch.tensor([0.0, 3.0, 2.0])
    margins = 1 + x.numpy().reshape(3, 4)
    for row, label in enumerate([0, 3, 2]):
        margins[row, label] = 2 - margins[row, label]
    margins = np.maximum(margins, 0)
    expected = (margins if norm == "L1" else margins**2).sum() / 3
    fields = f"hinge_loss_param {{ norm: {norm} }}"
    np.testing.assert_allclose(compute("HingeLoss", fields, x, labels)[0].item(), expected)
    check_gradients("HingeLoss", fields, x, labels)


def test_hinge_has_no_gradient_at_the_margin() -> None:
    x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    (loss,) = compute("HingeLoss", "", x, torch.zeros(1))
    assert torch.autograd.grad(loss, x)[0].tolist() == [[0, 0]]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("behind", [(), (1, 1)])
def test_contrastive(legacy: bool, behind: tuple[int, ...]) -> None:
    a, b, similar = random(6, 3, *behind), random(6, 3, *behind, high=1.5), torch.tensor([1.0, 0, 0, 1, 0, 0])
    distances = np.sqrt(((a - b).flatten(1).numpy() ** 2).sum(1))
    margin = float(np.sort(distances)[3])  # some within, one exactly at the edge, some beyond
    fields = (
        f"contrastive_loss_param {{ margin: {margin**2 if legacy else margin} legacy_version: {str(legacy).lower()} }}"
    )
    layer, _ = make("ContrastiveLoss", fields, (6, 3, *behind), (6, 3, *behind), (6,))
    margin = layer.spec.contrastive_loss_param.margin
    room = np.maximum(margin - (distances**2 if legacy else distances), 0)
    terms = np.where(similar == 1, distances**2, room if legacy else room**2)
    leaves = [a.clone().requires_grad_(), b.clone().requires_grad_()]
    (loss,) = layer(*leaves, similar)
    np.testing.assert_allclose(loss.item(), terms.sum() / 12)
    slopes = np.where(similar == 1, 1, np.where(room > 0, -1 if legacy else -room / (distances + 1e-4), 0))
    expected = (a - b).flatten(1).numpy() * slopes[:, None] / 6
    gradients = [gradient.flatten(1).numpy() for gradient in torch.autograd.grad(loss, leaves)]
    np.testing.assert_allclose(gradients[0], expected, atol=1e-12)
    np.testing.assert_allclose(gradients[1], -expected, atol=1e-12)
    for index, leaf in enumerate(leaves):  # Caffe's gradient is the derivative, but for the 1e-4 in it
        step = torch.zeros_like(leaf)
        step[0, 0] = step[1, 1] = 1e-6
        moved = [[layer(*(x + sign * step if x is leaf else x for x in leaves), similar)[0].item()] for sign in (1, -1)]
        found = (moved[0][0] - moved[1][0]) / 2e-6
        assert found == pytest.approx(gradients[index][0, 0] + gradients[index][1, 1], rel=1e-2, abs=1e-6)


def test_equal_samples_that_should_differ_have_no_direction() -> None:
    a = torch.ones(1, 2, requires_grad=True)
    (loss,) = compute("ContrastiveLoss", "", a, torch.ones(1, 2), torch.zeros(1))
    assert loss.item() == 0.5
    assert torch.autograd.grad(loss, a)[0].tolist() == [[0, 0]]


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("ignore", [None, 1])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((20, 4), 1), ((3, 4, 2, 3), 1), ((3, 5, 4), -1)])
def test_accuracy(top_k: int, ignore: int | None, ties: bool, shape: tuple[int, ...], axis: int) -> None:
    x, labels = random(*shape), some_labels(shape, 4, axis)
    if ties:
        x = x.round()
    right, seen = np.zeros(4), np.zeros(4)
    for row, label in zip(columns(x.numpy(), axis), labels.flatten().int().tolist(), strict=True):
        if label != ignore:
            right[label] += (row >= row[label]).sum() - 1 < top_k
            seen[label] += 1
    ignored = "" if ignore is None else f"ignore_label: {ignore}"
    fields = f"accuracy_param {{ top_k: {top_k} axis: {axis} {ignored} }}"
    share, classes = compute("Accuracy", fields, x, labels, tops=2)
    np.testing.assert_allclose(share.item(), right.sum() / seen.sum())
    np.testing.assert_allclose(classes.numpy(), right / np.maximum(seen, 1))
    assert torch.equal(compute("Accuracy", fields, x, labels)[0], share)


def test_accuracy_of_nothing_is_zero() -> None:
    fields = "accuracy_param { ignore_label: 255 }"
    share, classes = compute("Accuracy", fields, random(2, 3), torch.tensor([255.0, 255.0]), tops=2)
    assert share.item() == 0
    assert classes.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "fields", "shapes", "problem"),
    [
        ("SoftmaxWithLoss", "", [(2, 3), (3,)], "same first dimension"),
        ("SoftmaxWithLoss", "", [(2, 3), (2, 3)], r"want 2 labels, but there are 6, shape \(2, 3\)"),
        ("SoftmaxWithLoss", "softmax_param { axis: 2 }", [(2, 3), (2,)], "axis 2 is out of range"),
        ("InfogainLoss", "", [(2, 3), (2,)], "give the infogain matrix"),
        ("InfogainLoss", "", [(2, 3), (2,), (3, 4)], "must be 3 x 3"),
        ("SigmoidCrossEntropyLoss", "", [(2, 3), (2, 4)], "as many elements"),
        ("MultinomialLogisticLoss", "", [(2, 3), (2, 3)], "one number an item"),
        ("EuclideanLoss", "", [(2, 3), (2, 4)], "as many elements"),
        ("HingeLoss", "", [(2, 3), (2, 2)], "one number an item"),
        ("ContrastiveLoss", "", [(2, 3), (2, 4), (2,)], "must be alike"),
        ("ContrastiveLoss", "", [(2, 3), (2, 3), (3,)], "one number an item"),
        ("Accuracy", "accuracy_param { top_k: 4 }", [(2, 3), (2,)], r"top_k \(4\) must be between 1 and 3"),
        ("Accuracy", "", [(2, 3), (3,)], "want 2 labels, but there are 3"),
    ],
)
def test_mistakes_are_told_with_file_line_and_layer(
    kind: str, fields: str, shapes: list[tuple[int, ...]], problem: str
) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": .*{problem}'):
        make(kind, fields, *shapes)
