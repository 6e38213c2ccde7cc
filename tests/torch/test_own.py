"""What is not shared must be equal when workers join."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from modum.box import Box
from modum.errors import MismatchError
from tests.torch.workplace import Make, sgd

Connect = Callable[[], Box]


class Head(nn.Module):
    """A frozen backbone, a trained layer, a mask, a counter, and a table that is computed."""

    def __init__(self, seed: int = 0, mask: int = 1, table: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Linear(3, 2).requires_grad_(False)
        self.last = nn.Linear(2, 1)
        self.register_buffer("mask", torch.tensor([mask, 1]))
        self.register_buffer("counter", torch.tensor(0))
        self.register_buffer("table", table * torch.arange(9.0).sin(), persistent=False)


DIFFERENT = {
    "a frozen parameter": (Head(seed=1), r"backbone\.weight: shared frozen float32 \(2, 3\) \w{8}, here frozen "),
    "whole numbers": (Head(mask=0), r"mask: shared own int64 \(2,\) \w{8}, here own int64 \(2,\) \w{8}"),
    "a table": (Head(table=1.1), r"table: shared own float32 \(9,\) 9 finite numbers of size .*, here own "),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_worker_whose_unshared_values_differ_is_refused_by_name(what: str, connect: Connect, averager: Make) -> None:
    first = Head()
    averager(first, sgd(first), connect())
    other, message = DIFFERENT[what]
    with pytest.raises(MismatchError, match=message):
        averager(other, sgd(other), connect())


def test_counters_and_rounding_errors_may_differ(
    connect: Connect, averager: Make, caplog: pytest.LogCaptureFixture
) -> None:
    models = [Head(), Head(table=1 + 1e-6)]
    models[1].get_buffer("counter").fill_(500)
    models[1].last.reset_parameters()
    for model in models:
        with caplog.at_level(logging.INFO, "modum"):
            averager(model, sgd(model), connect())
    assert torch.equal(models[1].last.weight, models[0].last.weight)
    line = "not shared, each worker's own: 2 frozen parameters (backbone.weight, backbone.bias) and 3 buffers "
    assert caplog.messages.count(f"{line}(mask, counter, table)") == 2
    models[0].backbone.weight.detach().fill_(0)
    assert models[1].backbone.weight.any()
