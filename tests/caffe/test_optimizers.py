"""Update rules against Caffe's formulas written out for one blob at a time in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from modum.caffe import ModelError
from modum.caffe.optimizers import make_rule
from modum.caffe.parameters import Parameters
from tests.caffe.nets import CLASSIFIER, net, solver

Array = NDArray[np.float64]
STEPS = 5
RATE = 0.1
DECAY = 0.01
MULTIPLIERS = [(1.0, 1.0), (2.0, 0.0), (1.0, 1.0), (1.0, 1.0)]
"""lr_mult and decay_mult of CLASSIFIER's blobs."""


def sgd(g: Array, memory: dict[str, Array], rate: float, step: int) -> Array:
    memory["v"] = 0.9 * memory["v"] + rate * g
    return memory["v"]


def nesterov(g: Array, memory: dict[str, Array], rate: float, step: int) -> Array:
    before = memory["v"]
    memory["v"] = 0.9 * before + rate * g
    return 1.9 * memory["v"] - 0.9 * before


def adagrad(g: Array, memory: dict[str, Array], rate: float, step: int) -> Array:
    memory["v"] = memory["v"] + g**2
    return rate * g / (np.sqrt(memory["v"]) + 1e-4)


def rmsprop(g: Array, memory: dict[str, Array], rate: float, step: int) -> Array:
    memory["v"] = 0.98 * memory["v"] + 0.02 * g**2
    return rate * g / (np.sqrt(memory["v"]) + 1e-4)


def adadelta(g: Array, memory: dict[str, Array], rate: float, step: int) -> Array:
    memory["v"] = 0.9 * memory["v"] + 0.1 * g**2
    update = g * np.sqrt((memory["u"] + 1e-4) / (memory["v"] + 1e-4))
    memory["u"] = 0.9 * memory["u"] + 0.1 * update**2
    return rate * update


def adam(g: Array, memory: dict[str, Array], rate: float, step: int) -> Array:
    memory["v"] = 0.9 * memory["v"] + 0.1 * g
    memory["u"] = 0.99 * memory["u"] + 0.01 * g**2
    correction = float(np.sqrt(1 - 0.99 ** (step + 1)) / (1 - 0.9 ** (step + 1)))
    update: Array = rate * correction * memory["v"] / (np.sqrt(memory["u"]) + 1e-4)
    return update


@pytest.mark.parametrize(
    ("settings", "formula"),
    [
        ('type: "SGD" momentum: 0.9', sgd),
        ('type: "Nesterov" momentum: 0.9', nesterov),
        ('type: "AdaGrad" delta: 1e-4', adagrad),
        ('type: "RMSProp" delta: 1e-4 rms_decay: 0.98', rmsprop),
        ('type: "AdaDelta" delta: 1e-4 momentum: 0.9', adadelta),
        ('type: "Adam" delta: 1e-4 momentum: 0.9 momentum2: 0.99', adam),
    ],
)
@pytest.mark.parametrize("kind", ["L1", "L2"])
def test_a_rule_follows_caffes_formula(settings: str, formula: Callable[..., Array], kind: str) -> None:
    model = net(CLASSIFIER)
    parameters = Parameters(model.learnables)
    rule = make_rule(solver(f'{settings} weight_decay: {DECAY} regularization_type: "{kind}"'), parameters)
    weights = [one.tensor.detach().double().numpy().copy() for one in model.learnables]
    memories = [{"v": np.zeros_like(weight), "u": np.zeros_like(weight)} for weight in weights]
    random = np.random.default_rng(0)
    for step in range(STEPS):
        for index, (one, (lr, decay)) in enumerate(zip(model.learnables, MULTIPLIERS, strict=True)):
            g = random.normal(size=weights[index].shape).astype(np.float32)
            assert one.tensor.grad is not None
            one.tensor.grad.copy_(torch.from_numpy(g))
            regular = np.sign(weights[index]) if kind == "L1" else weights[index]
            update = formula(g + DECAY * decay * regular, memories[index], RATE * lr, step)
            weights[index] = weights[index] - update
        rule.apply(RATE, step)
        for one, weight in zip(model.learnables, weights, strict=True):
            np.testing.assert_allclose(one.tensor.detach().numpy(), weight, rtol=2e-5, atol=2e-6)
    updates = [one.tensor.grad for one in model.learnables]
    assert updates[-1] is not None
    np.testing.assert_allclose(updates[-1].numpy(), update, rtol=1e-3, atol=1e-5)  # Caffe's diff after an update


def test_all_parameters_lie_in_one_tensor_by_their_multipliers() -> None:
    model = net(CLASSIFIER)
    values = [one.tensor.detach().clone() for one in model.learnables]
    parameters = Parameters(model.learnables)
    assert [(one.lr_mult, one.decay_mult) for one in parameters.segments] == [(2.0, 0.0), (1.0, 1.0)]
    assert parameters.segments[-1].end == parameters.flat.numel() == parameters.gradient.numel()
    for one, value in zip(model.learnables, values, strict=True):
        torch.testing.assert_close(one.tensor.detach(), value, rtol=0, atol=0)
        assert one.tensor.untyped_storage().data_ptr() == parameters.flat.untyped_storage().data_ptr()
    model.forward_backward()
    parameters.flat.zero_()
    assert all(not one.tensor.any() for one in model.learnables)
    assert all(one.tensor.grad is not None and one.tensor.grad.any() for one in model.learnables)
    assert parameters.gradient.any()


def test_what_does_not_learn_is_not_among_them() -> None:
    model = net(CLASSIFIER.replace("param { lr_mult: 1 }", "param { lr_mult: 0 }"))
    assert len(Parameters(model.learnables).learnables) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('type: "AdaGrad" momentum: 0.9', r"momentum \(0.9\) cannot be used with AdaGrad"),
        ('type: "RMSProp" momentum: 0.5', r"momentum \(0.5\) cannot be used with RMSProp"),
        ('type: "RMSProp" rms_decay: 1', r"rms_decay \(1\) must be at least 0 and less than 1"),
        ('type: "Adam" momentum2: 1', r"momentum2 \(1\) must be"),
        ('type: "SDG"', "solver type 'SDG' is not among SGD, Nesterov"),
        ('regularization_type: "L3"', "regularization_type 'L3' is neither L1 nor L2"),
    ],
)
def test_settings_that_a_rule_cannot_have_are_refused_with_their_line(settings: str, message: str) -> None:
    model = net(CLASSIFIER)
    with pytest.raises(ModelError, match=f"solver.prototxt:1: .*{message}"):
        make_rule(solver(settings), Parameters(model.learnables))


def test_history_that_is_not_finite_is_mended() -> None:
    rule = make_rule(solver('type: "Adam"'), Parameters(net(CLASSIFIER).learnables))
    rule.history[0][:3] = torch.tensor([1.0, torch.nan, torch.inf])
    rule.mend()
    assert rule.history[0][:3].tolist() == [1, 0, 0]
