"""Layers that users write in Python, as they would for pycaffe."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import modum.caffe
from modum.caffe import TEST, ModelError
from modum.caffe.layers import make_layer
from modum.caffe.layers.python import PythonLayer
from tests.caffe.layers.support import make, parse, random

CODE = '''
import caffe
import numpy as np


class Distance(caffe.Layer):
    """Half the squared distance an item; the gradient is written out."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("two bottoms")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("equal counts")
        self.diff = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        self.asked = list(propagate_down)
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * top[0].diff[0] * self.diff / bottom[i].num


class Scaled(caffe.Layer):
    """Multiplies by a parameter, and tells in a second top what it was given."""

    def setup(self, bottom, top):
        self.factor = float(self.param_str)
        self.blobs.add_blob(2, 1)
        self.blobs[0].data[...] = self.factor

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
        top[1].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * self.blobs[0].data[0, 0]
        top[1].data[0] = self.phase

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * self.blobs[0].data[0, 0]
        self.blobs[0].diff[0, 0] += (top[0].diff * bottom[0].data).sum()


class Source(object):
    """Makes numbers from nothing, and is no caffe.Layer."""

    def setup(self, bottom, top):
        self.next = 0

    def reshape(self, bottom, top):
        top[0].reshape(2, 3)

    def forward(self, bottom, top):
        self.next += 1
        top[0].data[...] = self.next

    def backward(self, top, propagate_down, bottom):
        raise AssertionError("data has no gradient")


class InNet(caffe.Layer):
    net = caffe.Net
'''


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "user_layers.py").write_text(CODE)
    (tmp_path / "broken_layers.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("user_layers", "broken_layers", "caffe"):
        sys.modules.pop(name, None)


def fields(layer: str, param: str = "", module: str = "user_layers") -> str:
    return f'python_param {{ module: "{module}" layer: "{layer}" param_str: "{param}" }}'


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_of_the_users_own(dtype: torch.dtype) -> None:
    layer, shapes = make("Python", fields("Distance") + " loss_weight: 1", (3, 2), (3, 2))
    a, b = random(3, 2).to(dtype).requires_grad_(), random(3, 2).to(dtype).requires_grad_()
    (loss,) = layer(a, b)
    assert shapes == [tuple(loss.shape)] == [(1,)]
    assert loss.dtype == dtype
    torch.testing.assert_close(loss[0], (a - b).square().sum() / 6)
    gradients = torch.autograd.grad(2 * loss.sum(), (a, b))
    torch.testing.assert_close(gradients[0], 2 * (a - b).detach() / 3)
    torch.testing.assert_close(gradients[1], -gradients[0])
    assert layer.loss_weights == [1]


def test_bottoms_without_a_gradient_are_not_asked_for_one() -> None:
    layer, _ = make("Python", fields("Distance"), (3, 2), (3, 2))
    a = random(3, 2).float().requires_grad_()
    torch.autograd.grad(layer(a, random(3, 2).float())[0].sum(), a)
    assert isinstance(layer, PythonLayer)
    assert layer.user.asked == [True, False]


def test_parameters_settings_and_phase() -> None:
    layer, shapes = make("Python", fields("Scaled", "1.5"), (2, 3), tops=2, phase=TEST)
    assert shapes == [(2, 3), (1,)]
    assert [tuple(blob.shape) for blob in layer.blobs] == [(2, 1)]
    layer.blobs[0].data.fill_(1.5)
    x = random(2, 3).float().requires_grad_()
    for scale in (1.5, 4.0):
        layer.blobs[0].data.fill_(scale)
        y, phase = layer(x)
        torch.testing.assert_close(y, x * scale)
        assert phase.tolist() == [TEST]
        gradients = torch.autograd.grad(y.sum(), (x, layer.blobs[0]))
        torch.testing.assert_close(gradients[0], torch.full((2, 3), scale))
        torch.testing.assert_close(gradients[1], torch.stack([x.detach().sum(), torch.tensor(0.0)])[:, None])


def test_the_users_values_of_parameters_are_the_first() -> None:
    layer = make_layer(parse("Python", fields("Scaled", "1.5"), tops=2), TEST)
    layer.setup([(2, 3)])
    assert layer.blobs[0].tolist() == [[1.5], [1.5]]


def test_a_source_of_data() -> None:
    layer, shapes = make("Python", fields("Source"))
    assert shapes == [(2, 3)]
    assert [layer()[0].tolist() for _ in range(3)] == [[[step] * 3] * 2 for step in (1, 2, 3)]


def test_other_shapes_reach_the_users_code() -> None:
    layer, _ = make("Python", fields("Scaled", "1"), (2, 3), tops=2)
    assert layer.reshape([(4, 5, 6)]) == [(4, 5, 6), (1,)]
    assert layer(torch.zeros(4, 5, 6))[0].shape == (4, 5, 6)


def test_import_caffe_gives_what_modum_has() -> None:
    make("Python", fields("Source"))
    assert sys.modules["user_layers"].InNet.net is modum.caffe.Net


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (fields("Nobody"), r'module "user_layers" \(.*user_layers.py\) has no class "Nobody"'),
        (fields("X", module="not_there"), r'cannot import module "not_there" \(No module named .*PYTHONPATH'),
        (fields("X", module="broken_layers"), r"cannot import .* \(No module named 'surely_not_installed'\)"),
    ],
)
def test_mistakes_are_told_with_file_line_and_layer(text: str, problem: str) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": {problem}'):
        make("Python", text, (2, 3))


def test_what_the_users_code_raises_is_raised() -> None:
    with pytest.raises(Exception, match=r"^equal counts$"):
        make("Python", fields("Distance"), (2, 3), (2, 4))
