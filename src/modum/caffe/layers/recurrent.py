"""RNN and LSTM over (time steps, streams, ...), and a single LSTM unit.

The bottom `cont` (time steps, streams) is 0 where a stream begins and 1 where it continues: it multiplies the state
that enters a step. Between two forward passes the state is kept, without its gradient, unless `expose_hidden` makes
it a bottom and a top; no gradient crosses passes then either.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from modum.caffe.layers.base import Layer, Shape, count, register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Recurrent(Layer):
    """Bottoms: x (T, N, ...), cont (T, N), optionally a static input (N, ...) and the initial states (1, N, D) each.

    Tops: the output (T, N, D), optionally the last states. Blobs: input weights and bias, optionally the static input's
    weights, then those of the state.
    """

    top_range = (1, None)
    without_gradient = frozenset({1})
    keeps_state = True
    states: ClassVar[int]
    """Number of tensors in the state."""
    gates: ClassVar[int]
    """Number of values that a step computes for each output."""

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        param = self.spec.recurrent_param
        if param.num_output < 1:
            raise self.error("num_output must be at least 1")
        self.outputs = param.num_output
        self.exposed = self.states if param.expose_hidden else 0
        if self.top_count != 1 + self.exposed:
            raise self.error(f"there must be {1 + self.exposed} tops, not {self.top_count}")
        if not 0 <= len(bottoms) - 2 - self.exposed <= 1:
            raise self.error(
                f"there must be {2 + self.exposed} bottoms, or one more for a static input, not {len(bottoms)}"
            )
        self.static = len(bottoms) == 3 + self.exposed
        self.inputs = [count(bottoms[0][2:]), count(bottoms[2][1:]) if self.static else 0]
        self.steps = bottoms[0][0] if bottoms[0] else 0
        width = self.gates * self.outputs
        self.add_blob((width, self.inputs[0]), param.weight_filler, generator)
        self.add_blob((width,), param.bias_filler, generator)
        if self.static:
            self.add_blob((width, self.inputs[1]), param.weight_filler, generator)
        self.add_blob((width, self.outputs), param.weight_filler, generator)
        self.kept: list[Tensor] = []

    bottom_range = (2, None)

    def needs_gradient(self, bottom_index: int) -> bool:
        return bottom_index == 0 or (bottom_index == 2 and self.static)

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        x, cont = bottoms[:2]
        if len(x) < 2 or cont != x[:2]:
            raise self.error(f"bottoms must be x (steps, streams, ...) and cont (steps, streams), not {x} and {cont}")
        if x[0] != self.steps:
            raise self.error(f"was made for {self.steps} time steps, not {x[0]}")
        streams = x[1]
        sizes = [count(x[2:]), count(bottoms[2][1:]) if self.static else 0]
        if sizes != self.inputs or (self.static and bottoms[2][:1] != (streams,)):
            raise self.error(f"the weights are for {self.inputs[0]} inputs, but bottoms have shapes {list(bottoms)}")
        state = (1, streams, self.outputs)
        for index in range(len(bottoms) - self.exposed, len(bottoms)):
            if bottoms[index] != state:
                raise self.error(f"bottom {index}, a hidden state, must have shape {state}, not {bottoms[index]}")
        return [(self.steps, streams, self.outputs), *[state] * self.exposed]

    def reset(self) -> None:
        """Forget the state: the next forward pass begins with zeros."""
        self.kept = []

    def place(self) -> dict[str, Any]:
        return {"state": [tensor.cpu() for tensor in self.kept]}

    def go_on(self, place: Mapping[str, Any]) -> None:
        self.kept = list(place["state"])

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        x, cont = bottoms[0].flatten(2), bottoms[1].detach()
        given = F.linear(x, self.blobs[0], self.blobs[1])
        if self.static:
            given = given + F.linear(bottoms[2].flatten(1), self.blobs[2])
        state_shape = (x.shape[1], self.outputs)
        if self.exposed:
            state = [bottom.detach().reshape(state_shape) for bottom in bottoms[-self.exposed :]]
        elif self.kept and self.kept[0].shape == state_shape:
            state = [tensor.to(x) for tensor in self.kept]
        else:
            state = [x.new_zeros(state_shape) for _ in range(self.states)]
        hidden = []
        for now, goes_on in zip(given.unbind(0), cont[:, :, None].unbind(0), strict=True):
            state = self.step(now, goes_on, state)
            hidden.append(state[0])
        last = [tensor.detach() for tensor in state]
        self.kept = [] if self.exposed else last
        return (self.output(torch.stack(hidden)), *(tensor[None] for tensor in last[: self.exposed]))

    @abstractmethod
    def step(self, given: Tensor, goes_on: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return the next state, hidden output first, from the inputs' contribution (N, gates * D) and cont (N, 1)."""

    def output(self, hidden: Tensor) -> Tensor:
        """Return the top, from the hidden outputs of all steps (T, N, D)."""
        return hidden

    @property
    def recurrent_weights(self) -> Tensor:
        """Weights that multiply the previous step's hidden state."""
        weights: Tensor = self.blobs[3 if self.static else 2]
        return weights


@register("RNN")
class RNN(Recurrent):
    """h = tanh(W_hh h + W_xh x + b_h), o = tanh(W_ho h + b_o). Two more blobs, W_ho and b_o, come last."""

    states = 1
    gates = 1

    def make(self, bottoms: Sequence[Shape], generator: torch.Generator | None) -> None:
        super().make(bottoms, generator)
        param = self.spec.recurrent_param
        self.add_blob((self.outputs, self.outputs), param.weight_filler, generator)
        self.add_blob((self.outputs,), param.bias_filler, generator)

    def step(self, given: Tensor, goes_on: Tensor, state: list[Tensor]) -> list[Tensor]:
        return [torch.tanh(given + F.linear(goes_on * state[0], self.recurrent_weights))]

    def output(self, hidden: Tensor) -> Tensor:
        return torch.tanh(F.linear(hidden, self.blobs[-2], self.blobs[-1]))


@register("LSTM")
class LSTM(Recurrent):
    """Long short-term memory with the gates input, forget, output and candidate, in that order in the weights.

    Zaremba and Sutskever 2014, as in Donahue et al. 2015. The state is h and c.
    """

    states = 2
    gates = 4

    def step(self, given: Tensor, goes_on: Tensor, state: list[Tensor]) -> list[Tensor]:
        hidden, cell = state
        return lstm_unit(given + F.linear(goes_on * hidden, self.recurrent_weights), goes_on, cell)


def lstm_unit(gates: Tensor, goes_on: Tensor, cell: Tensor) -> list[Tensor]:
    """Return h and c after a step, from the gates' sums (..., 4 D), cont (..., 1) and c (..., D)."""
    through, candidate = torch.split_with_sizes(gates, (3 * cell.shape[-1], cell.shape[-1]), -1)
    enter, keep, leave = torch.sigmoid(through).chunk(3, -1)
    cell = goes_on * keep * cell + enter * torch.tanh(candidate)
    return [leave * torch.tanh(cell), cell]


@register("LSTMUnit")
class LSTMUnit(Layer):
    """One step of an LSTM: bottoms c (1, N, D), the gates' sums (1, N, 4 D) and cont (1, N); tops c and h."""

    bottom_range = (3, 3)
    top_range = (2, 2)
    without_gradient = frozenset({2})

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        cell, gates, cont = bottoms
        if len(cell) != 3 or cell[0] != 1 or gates != (*cell[:2], 4 * cell[2]) or cont != cell[:2]:
            raise self.error(f"bottoms must be (1, N, D), (1, N, 4 D) and (1, N), not {cell}, {gates} and {cont}")
        return [cell, cell]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        hidden, cell = lstm_unit(bottoms[1], bottoms[2].detach()[:, :, None], bottoms[0])
        return cell, hidden
