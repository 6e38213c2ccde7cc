"""Convolution, Deconvolution and Im2col against loops over their definitions, and OpenCV."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modum.caffe import ModelError
from tests.caffe.layers.support import Array, assert_like_opencv, check_gradients, compute, make, random


@dataclass(frozen=True)
class Case:
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    group: int = 1
    inputs: int = 1
    """Channels in a group."""
    outputs: int = 1
    bias: bool = True

    @property
    def extent(self) -> list[int]:
        return [(kernel - 1) * dilation + 1 for kernel, dilation in zip(self.kernel, self.dilation, strict=True)]

    @property
    def fields(self) -> str:
        lists = {"kernel_size": self.kernel, "stride": self.stride, "pad": self.pad, "dilation": self.dilation}
        sizes = " ".join(f"{name}: {value}" for name, values in lists.items() for value in values)
        return (
            f"convolution_param {{ num_output: {self.outputs * self.group} group: {self.group} {sizes} "
            f"bias_term: {str(self.bias).lower()} weight_filler {{ type: 'xavier' }} }}"
        )


@st.composite
def cases(draw: st.DrawFn, axes: int) -> Case:
    def numbers(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    most = 3 if axes < 4 else 2
    kernel, dilation, pad = numbers(1, most), numbers(1, most), numbers(0, most - 1)
    sizes = tuple(
        max((k - 1) * d + 1 - 2 * p, 1) + draw(st.integers(0, 3)) for k, d, p in zip(kernel, dilation, pad, strict=True)
    )
    group, inputs, outputs = (draw(st.integers(1, 2)) for _ in range(3))
    stride, bias = numbers(1, 3), draw(st.booleans())
    return Case(sizes, kernel, stride, pad, dilation, group, inputs, outputs, bias)


def windows(case: Case, image: Array) -> Array:
    """(N, C, sizes...) -> (N, C, kernel..., places...), one element after the other."""
    places: list[int] = [
        (size + 2 * pad - extent) // stride + 1
        for size, pad, extent, stride in zip(case.sizes, case.pad, case.extent, case.stride, strict=True)
    ]
    found = np.zeros((*image.shape[:2], *case.kernel, *places))
    for place in itertools.product(*map(range, places)):
        for tap in itertools.product(*map(range, case.kernel)):
            at: tuple[int, ...] = tuple(
                p * stride - pad + t * dilation
                for p, t, stride, pad, dilation in zip(place, tap, case.stride, case.pad, case.dilation, strict=True)
            )
            if all(0 <= position < size for position, size in zip(at, case.sizes, strict=True)):
                there: tuple[slice | int, ...] = (slice(None), slice(None), *tap, *place)
                source: tuple[slice | int, ...] = (slice(None), slice(None), *at)
                found[there] = image[source]
    return found


def convolved(case: Case, image: Array, weights: Array) -> Array:
    parts = windows(case, image)
    tops = []
    axes = list(range(1, 2 + len(case.kernel)))
    for group in range(case.group):
        filters = weights[group * case.outputs : (group + 1) * case.outputs]
        inputs = parts[:, group * case.inputs : (group + 1) * case.inputs]
        tops.append(np.moveaxis(np.tensordot(filters, inputs, (axes, axes)), 0, 1))
    return np.concatenate(tops, 1)


@pytest.mark.parametrize("axes", [0, 1, 2, 3, 4])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_convolution_is_its_definition(axes: int, data: st.DataObject) -> None:
    case = data.draw(cases(axes))
    image = random(2, case.inputs * case.group, *case.sizes)
    layer, shapes = make("Convolution", case.fields, tuple(image.shape))
    layer.double()
    expected = convolved(case, image.numpy(), layer.blobs[0].detach().numpy())
    if case.bias:
        expected += layer.blobs[1].detach().numpy().reshape(-1, *(1,) * axes)
    assert shapes == [expected.shape]
    np.testing.assert_allclose(layer(image)[0].detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("axes", [0, 1, 2, 3, 4])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_deconvolution_is_the_transpose_of_convolution(axes: int, data: st.DataObject) -> None:
    case = data.draw(cases(axes))
    small = random(2, case.outputs * case.group, *(st_size := tuple(min(size, 3) for size in case.sizes)))
    # The transpose maps back what a convolution makes: inputs and outputs change places.
    fields = case.fields.replace(f"num_output: {case.outputs * case.group}", f"num_output: {case.inputs * case.group}")
    large = tuple(
        stride * (size - 1) + extent - 2 * pad
        for size, stride, extent, pad in zip(st_size, case.stride, case.extent, case.pad, strict=True)
    )
    if min(large, default=1) < 1:
        with pytest.raises(ModelError, match="leaves nothing"):
            make("Deconvolution", fields, tuple(small.shape))
        return
    layer, shapes = make("Deconvolution", fields, tuple(small.shape))
    layer.double()
    assert shapes == [(2, case.inputs * case.group, *large)]
    top = layer(small)[0].detach()
    if case.bias:
        top = top - layer.blobs[1].detach().reshape(-1, *(1,) * axes)
    probe = random(*shapes[0])
    there = Case(large, case.kernel, case.stride, case.pad, case.dilation, case.group, case.inputs, case.outputs)
    seen = convolved(there, probe.numpy(), layer.blobs[0].detach().numpy())
    assert seen.shape == tuple(small.shape)
    np.testing.assert_allclose((seen * small.numpy()).sum(), (top * probe).sum().item(), atol=1e-10)


@pytest.mark.parametrize("axes", [1, 2, 3])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_im2col_lists_the_windows(axes: int, data: st.DataObject) -> None:
    case = data.draw(cases(axes))
    image = random(2, 3, *case.sizes)
    expected = windows(case, image.numpy())
    (top,) = compute("Im2col", case.fields, image)
    np.testing.assert_array_equal(top.numpy(), expected.reshape(2, -1, *expected.shape[2 + axes :]))


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize(
    "window",
    [
        "kernel_size: 3",
        "kernel_size: 3 pad: 1 stride: 2",
        "kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 2 pad_h: 2 pad_w: 0",
        "kernel_size: 3 dilation: 2 pad: 2",
        "kernel_size: 3 group: 2 bias_term: false",
    ],
)
def test_two_dimensions_are_as_in_opencv(kind: str, window: str) -> None:
    if kind == "Convolution" or "dilation" not in window:  # OpenCV does not dilate deconvolutions
        assert_like_opencv(kind, f"convolution_param {{ num_output: 4 {window} }}", random(2, 4, 7, 6))


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_gradients_over_four_axes(kind: str) -> None:
    check_gradients(
        kind, "convolution_param { num_output: 2 kernel_size: 2 stride: 2 pad: 1 }", random(1, 1, 2, 3, 2, 2)
    )


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_gradients(kind: str) -> None:
    fields = "convolution_param { num_output: 2 kernel_size: 2 stride: 2 pad: 1 dilation: 1 dilation: 2 group: 2 }"
    check_gradients(kind, fields, random(2, 4, 4, 3))


def test_the_gradient_of_im2col() -> None:
    check_gradients("Im2col", "convolution_param { kernel_size: 2 stride: 1 pad: 1 dilation: 2 }", random(1, 2, 4, 3))


def test_weights_have_the_shapes_of_caffe() -> None:
    fields = "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 5 group: 2 }"
    layer, _ = make("Convolution", fields, (1, 4, 9, 9))
    assert [tuple(blob.shape) for blob in layer.blobs] == [(6, 2, 3, 5), (6,)]
    layer, _ = make("Deconvolution", fields, (1, 4, 9, 9))
    assert [tuple(blob.shape) for blob in layer.blobs] == [(4, 3, 3, 5), (6,)]


def test_axes_before_the_channels_count_as_images() -> None:
    image = random(2, 3, 4, 5, 5)
    fields = "convolution_param { num_output: 2 kernel_size: 3 axis: 2 }"
    layer, shapes = make("Convolution", fields, tuple(image.shape))
    layer.double()
    assert shapes == [(2, 3, 2, 3, 3)]
    flat, _ = make("Convolution", fields.replace("axis: 2", "axis: 1"), (6, 4, 5, 5))
    flat.double().load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(image)[0], flat(image.reshape(6, 4, 5, 5))[0].reshape(2, 3, 2, 3, 3))
    assert compute("Im2col", "convolution_param { kernel_size: 3 axis: -3 }", image)[0].shape == (2, 3, 36, 3, 3)


def test_every_bottom_has_its_own_top() -> None:
    first, second = random(1, 2, 4, 4), random(1, 2, 4, 4)
    layer, _ = make(
        "Convolution", "convolution_param { num_output: 3 kernel_size: 2 }", (1, 2, 4, 4), (1, 2, 4, 4), tops=2
    )
    layer.double()
    both = layer(first, second)
    single, _ = make("Convolution", "convolution_param { num_output: 3 kernel_size: 2 }", (1, 2, 4, 4))
    single.double().load_state_dict(layer.state_dict())
    assert torch.equal(both[0], single(first)[0])
    assert torch.equal(both[1], single(second)[0])


def test_other_sizes_of_images_need_a_reshape_only() -> None:
    layer, _ = make("Convolution", "convolution_param { num_output: 3 kernel_size: 2 }", (1, 2, 4, 4))
    assert layer.reshape([(7, 2, 9, 5)]) == [(7, 3, 8, 4)]
    assert layer(torch.zeros(7, 2, 9, 5))[0].shape == (7, 3, 8, 4)
    with pytest.raises(ModelError, match="must have 2 channels"):
        layer.reshape([(1, 3, 4, 4)])


@pytest.mark.parametrize(
    ("fields", "shape", "problem"),
    [
        ("num_output: 3", (1, 2, 4, 4), "kernel_size is given 0 times"),
        ("num_output: 3 kernel_size: 0", (1, 2, 4, 4), "must not be 0"),
        ("num_output: 3 kernel_size: 5", (1, 2, 4, 4), r"kernel \(5, 5\) .* exceeds the input \(4, 4\)"),
        ("num_output: 3 kernel_size: 2 kernel_h: 2", (1, 2, 4, 4), "either kernel_size, or kernel_h and kernel_w"),
        ("num_output: 3 kernel_h: 2 kernel_w: 2", (1, 2, 4), "are for 2 spatial axes, but there are 1"),
        ("num_output: 3 kernel_size: 2 stride: 1 stride: 1 stride: 1", (1, 2, 4, 4), "stride is given 3 times"),
        ("num_output: 3 kernel_size: 2 group: 2", (1, 2, 4, 4), r"group 2 must divide .* \(2\) and num_output \(3\)"),
        ("kernel_size: 2", (1, 2, 4, 4), "num_output must be at least 1"),
        ("num_output: 3 kernel_size: 2 axis: 4", (1, 2, 4, 4), "axis 4 is out of range"),
    ],
)
def test_mistakes_are_told_with_file_line_and_layer(fields: str, shape: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": .*{problem}'):
        make("Convolution", f"convolution_param {{ {fields} }}", shape)


def test_bottoms_must_be_alike() -> None:
    with pytest.raises(ModelError, match=r'"b0" is .* and "b1" is'):
        make("Convolution", "convolution_param { num_output: 1 kernel_size: 1 }", (1, 2, 4, 4), (1, 2, 4, 5), tops=2)
