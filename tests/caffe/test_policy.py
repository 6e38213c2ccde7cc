"""Learning rates at chosen iterations, worked out by hand."""

import math

import pytest

from modum.caffe import ModelError, read_solver
from modum.caffe.policy import Policy


def policy(text: str) -> Policy:
    return Policy(read_solver("solver.prototxt", text=text))


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ('lr_policy: "fixed" base_lr: 0.5', {0: 0.5, 1000: 0.5}),
        ('lr_policy: "step" base_lr: 1 gamma: 0.5 stepsize: 10', {0: 1, 9: 1, 10: 0.5, 25: 0.25}),
        ('lr_policy: "exp" base_lr: 2 gamma: 0.5', {0: 2, 1: 1, 3: 0.25}),
        ('lr_policy: "inv" base_lr: 1 gamma: 0.5 power: 2', {0: 1, 2: 0.25, 6: 0.0625}),
        (
            'lr_policy: "multistep" base_lr: 1 gamma: 0.5 stepvalue: 5 stepvalue: 7',
            {0: 1, 4: 1, 5: 0.5, 6: 0.5, 7: 0.25, 100: 0.25},
        ),
        ('lr_policy: "poly" base_lr: 4 power: 2 max_iter: 10', {0: 4, 5: 1, 10: 0, 11: 0}),
        ('lr_policy: "sigmoid" base_lr: 1 gamma: -1 stepsize: 5', {4: 1 / (1 + 1 / math.e), 5: 0.5, 105: 0.0}),
        ('lr_policy: "sigmoid" base_lr: 2 gamma: 0.1 stepsize: 10000', {0: 0.0, 10000: 1.0, 20000: 2.0}),
    ],
)
def test_the_rate_of_an_iteration(text: str, rates: dict[int, float]) -> None:
    tested = policy(text)
    assert {iteration: tested.rate(iteration) for iteration in rates} == pytest.approx(rates)


def test_iterations_that_others_do_count_as_passed() -> None:
    tested = policy('lr_policy: "multistep" base_lr: 1 gamma: 0.5 stepvalue: 5 stepvalue: 7')
    assert tested.rate(0) == 1
    assert tested.rate(8) == 0.25
    assert tested.current_step == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('lr_policy: "cosine"', "lr_policy 'cosine' is not among fixed, step, exp, inv"),
        ('lr_policy: "step"', "needs a stepsize of at least 1, not 0"),
        ('lr_policy: "poly"', "needs a max_iter of at least 1, not 0"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"solver.prototxt:2: .*{message}"):
        policy("base_lr: 1\n" + text)
