"""RNN and LSTM against loops over time, the state between passes, and what of it has a gradient."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modum.caffe import ModelError
from modum.caffe.layers import Layer
from modum.caffe.layers.recurrent import Recurrent
from tests.caffe.layers.support import Array, check_gradients, make, random

FIELDS = "recurrent_param { num_output: 3 weight_filler { type: 'xavier' } }"
EXPOSED = FIELDS.replace("3", "3 expose_hidden: true")


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def unrolled(
    kind: str, layer: Layer, x: Array, cont: Array, state: Sequence[Array], static: Array | None
) -> tuple[Array, list[Array]]:
    """Step by step, stream by stream: the outputs and the last state."""
    blobs = [blob.detach().numpy() for blob in layer.blobs]
    inputs, bias = blobs[:2]
    recurrent = blobs[3 if static is not None else 2]
    states = [np.array(part) for part in state]
    outputs = np.zeros((*x.shape[:2], 3))
    for step in range(x.shape[0]):
        for stream in range(x.shape[1]):
            total = inputs @ x[step, stream].ravel() + bias + recurrent @ (cont[step, stream] * states[0][stream])
            if static is not None:
                total = total + blobs[2] @ static[stream].ravel()
            if kind == "RNN":
                states[0][stream] = np.tanh(total)
                outputs[step, stream] = np.tanh(blobs[-2] @ states[0][stream] + blobs[-1])
            else:
                enter, keep, leave = (sigmoid(total[3 * gate : 3 * gate + 3]) for gate in range(3))
                cell = cont[step, stream] * keep * states[1][stream] + enter * np.tanh(total[9:])
                states[1][stream], states[0][stream] = cell, leave * np.tanh(cell)
                outputs[step, stream] = states[0][stream]
    return outputs, states


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
@pytest.mark.parametrize("static", [False, True])
@settings(max_examples=10, deadline=None)
@given(steps=st.integers(1, 4), streams=st.integers(1, 3), data=st.data())
def test_steps_follow_the_formulas_and_the_state_is_kept(
    kind: str, static: bool, steps: int, streams: int, data: st.DataObject
) -> None:
    ones = st.lists(st.sampled_from([0.0, 1.0]), min_size=steps * streams, max_size=steps * streams)
    still = random(streams, 2, 2)
    extra = [(streams, 2, 2)] if static else []
    layer, shapes = make(kind, FIELDS, (steps, streams, 2, 2), (steps, streams), *extra)
    layer.double()
    assert shapes == [(steps, streams, 3)]
    state = [np.zeros((streams, 3))] * 2
    for _ in range(2):
        x, cont = random(steps, streams, 2, 2), torch.tensor(data.draw(ones)).double().reshape(steps, streams)
        expected, state = unrolled(kind, layer, x.numpy(), cont.numpy(), state, still.numpy() if static else None)
        (top,) = layer(x, cont, still) if static else layer(x, cont)
        np.testing.assert_allclose(top.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("kind", "states"), [("RNN", 1), ("LSTM", 2)])
@pytest.mark.parametrize("static", [False, True])
def test_the_state_may_be_bottoms_and_tops(kind: str, states: int, static: bool) -> None:
    x, cont, still = random(4, 2, 5), torch.ones(4, 2).double(), random(2, 3)
    given_states = [random(1, 2, 3).requires_grad_() for _ in range(states)]
    bottoms = [x, cont, *[still] * static, *given_states]
    layer, shapes = make(kind, EXPOSED, *(tuple(bottom.shape) for bottom in bottoms), tops=1 + states)
    layer.double()
    assert shapes == [(4, 2, 3), *[(1, 2, 3)] * states]
    start = [state[0].detach().numpy() for state in given_states]
    expected, last = unrolled(kind, layer, x.numpy(), cont.numpy(), start, still.numpy() if static else None)
    for _ in range(2):  # nothing is kept
        top, *ends = layer(*bottoms)
        np.testing.assert_allclose(top.detach().numpy(), expected, atol=1e-12)
        for end, part in zip(ends, last, strict=True):
            np.testing.assert_allclose(end[0].numpy(), part, atol=1e-12)
    assert [layer.needs_gradient(index) for index in range(len(bottoms))] == [
        True,
        False,
        *[True] * static,
        *[False] * states,
    ]
    assert torch.autograd.grad(top.sum(), given_states, allow_unused=True) == (None,) * states


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_gradients(kind: str) -> None:
    x, cont, still = random(3, 2, 2), torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]).double(), random(2, 3)
    states = [random(1, 2, 3) for _ in range(1 if kind == "RNN" else 2)]
    check_gradients(kind, EXPOSED, x, cont, still, *states, tops=1 + len(states), differentiable=(0, 2))


def test_the_kept_state_has_no_gradient_and_can_be_forgotten() -> None:
    layer, _ = make("LSTM", FIELDS, (2, 1, 2), (2, 1))
    assert isinstance(layer, Recurrent)
    x, cont = random(2, 1, 2).float(), torch.ones(2, 1)
    (first,) = layer(x, cont)
    (second,) = layer(x, cont)
    torch.autograd.grad(second.sum(), layer.blobs[0])
    assert not torch.equal(first, second)
    layer.reset()
    torch.testing.assert_close(layer(x, cont)[0], first)
    layer.reshape([(2, 3, 2), (2, 3)])
    torch.testing.assert_close(layer(x.expand(2, 3, 2), torch.ones(2, 3))[0][:, 0], first[:, 0])


def test_blobs_have_the_order_and_shapes_of_caffe() -> None:
    layer, _ = make("LSTM", FIELDS, (2, 4, 5), (2, 4), (4, 6))
    assert [tuple(blob.shape) for blob in layer.blobs] == [(12, 5), (12,), (12, 6), (12, 3)]
    layer, _ = make("RNN", FIELDS, (2, 4, 5), (2, 4), (4, 6))
    assert [tuple(blob.shape) for blob in layer.blobs] == [(3, 5), (3,), (3, 6), (3, 3), (3, 3), (3,)]


def test_the_unit_by_itself_is_one_step() -> None:
    cell, gates, cont = random(1, 2, 3), random(1, 2, 12), torch.tensor([[1.0, 0.0]]).double()
    layer, shapes = make("LSTMUnit", "", (1, 2, 3), (1, 2, 12), (1, 2), tops=2)
    assert shapes == [(1, 2, 3)] * 2
    enter, keep, leave = (sigmoid(gates.numpy()[..., 3 * gate : 3 * gate + 3]) for gate in range(3))
    expected = cont.numpy()[..., None] * keep * cell.numpy() + enter * np.tanh(gates.numpy()[..., 9:])
    new_cell, hidden = layer(cell, gates, cont)
    np.testing.assert_allclose(new_cell.numpy(), expected)
    np.testing.assert_allclose(hidden.numpy(), leave * np.tanh(expected))
    check_gradients("LSTMUnit", "", cell, gates, cont, tops=2, differentiable=(0, 1))


@pytest.mark.parametrize(
    ("fields", "shapes", "tops", "problem"),
    [
        ("", [(2, 1, 2), (2, 1)], 1, "num_output must be at least 1"),
        (FIELDS, [(2, 1, 2), (1, 2)], 1, r"x \(steps, streams, \.\.\.\) and cont"),
        (FIELDS, [(2, 1, 2), (2, 1), (2, 3)], 1, "the weights are for 2 inputs, but bottoms have shapes"),
        (FIELDS, [(2, 1, 2), (2, 1)], 3, "there must be 1 tops, not 3"),
        (EXPOSED, [(2, 1, 2), (2, 1)], 3, "there must be 4 bottoms, or one more for a static input, not 2"),
        (
            EXPOSED,
            [(2, 1, 2), (2, 1), (1, 1, 3), (1, 1, 4)],
            3,
            r"bottom 3, a hidden state, must have shape \(1, 1, 3\)",
        ),
    ],
)
def test_mistakes_are_told_with_file_line_and_layer(
    fields: str, shapes: list[tuple[int, ...]], tops: int, problem: str
) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": .*{problem}'):
        make("LSTM", fields, *shapes, tops=tops)


def test_the_number_of_steps_stays() -> None:
    layer, _ = make("LSTM", FIELDS, (2, 1, 2), (2, 1))
    with pytest.raises(ModelError, match="was made for 2 time steps, not 3"):
        layer.reshape([(3, 1, 2), (3, 1)])
