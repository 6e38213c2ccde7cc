"""Parameters as views of one flat tensor."""

import gc
import io

import numpy as np
import pytest
import torch
from torch import nn

from modum.box import Box
from modum.parameters import ALIGNMENT
from modum.torch import TorchGroup
from modum.torch.flat import FlatVector, as_numpy, flatten, shared_tensors


class Tied(nn.Module):
    """An embedding whose weight is the output layer's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.output = nn.Linear(4, 10)
        self.output.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.embedding(x)).sum()  # type: ignore[no-any-return]


def convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.Flatten())


def flat_vectors(model: nn.Module) -> list[FlatVector]:
    return flatten(shared_tensors(model), TorchGroup())


def names(model: nn.Module) -> list[str]:
    return [shared.name for shared in shared_tensors(model)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_strides_and_identities_stay_while_the_memory_is_one(memory_format: torch.memory_format) -> None:
    model = convolutions().to(memory_format=memory_format)  # type: ignore[call-overload]
    before = {name: (id(p), p.detach().clone(), p.stride()) for name, p in model.named_parameters()}
    (vector,) = flat_vectors(model)
    for name, parameter in model.named_parameters():
        identity, value, strides = before[name]
        assert id(parameter) == identity
        assert torch.equal(parameter, value)
        assert parameter.stride() == strides
        assert 0 <= parameter.data_ptr() - vector.flat.data_ptr() < vector.flat.nbytes
        assert parameter.data_ptr() % ALIGNMENT == 0
    vector.check()


def test_a_change_of_the_flat_tensor_is_a_change_of_every_parameter() -> None:
    model = convolutions()
    (vector,) = flat_vectors(model)
    vector.flat.fill_(3.0)
    assert all(bool(parameter.eq(3).all()) for parameter in model.parameters())
    assert bool(model.get_buffer("1.running_mean").eq(3).all())


def test_tied_parameters_are_shared_once() -> None:
    model = Tied()
    assert names(model) == ["embedding.weight", "output.bias"]
    flat_vectors(model)
    assert model.output.weight is model.embedding.weight
    assert model.output.weight.data_ptr() == model.embedding.weight.data_ptr()


def saved_bytes(module: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return len(file.getvalue())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_of_one_layer_has_nothing_of_the_others(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(100, 100), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 1)).to(dtype)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = [saved_bytes(module) for module in (model, *model)]
    (vector,) = flat_vectors(model)
    assert [saved_bytes(module) for module in (model, *model)] == before
    for tensor in (*model.parameters(), vector.tensors[-1].tensor):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_parameters_keep_the_memory_of_a_vector_that_is_gone() -> None:
    model = nn.Linear(3, 3)
    expected = model.weight.detach().clone()
    flat_vectors(model)
    gc.collect()
    torch.zeros(1000)
    assert torch.equal(model.weight, expected)


def test_two_tensors_in_one_memory_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    memory = torch.zeros(18)
    for layer, part in zip(model, (memory[:9], memory[9:]), strict=False):
        layer.weight = nn.Parameter(part.view(3, 3))
    shared_tensors(model)  # one storage, as those of recurrent layers on GPUs, but apart
    model[1].weight = nn.Parameter(model.get_parameter("0.weight").detach().t())
    with pytest.raises(ValueError, match=r"0\.weight and 1\.weight are two tensors in the same memory.*same object"):
        shared_tensors(model)
    model[1].weight = nn.Parameter(torch.zeros(3, 3))
    model[2].running_mean = model.get_parameter("0.bias").detach()
    with pytest.raises(ValueError, match=r"0\.bias and 2\.running_mean are two tensors in the same memory"):
        shared_tensors(model)


def test_frozen_parameters_and_integer_buffers_are_left_alone() -> None:
    model = convolutions()
    model.get_parameter("0.weight").requires_grad_(False)
    model.get_parameter("0.bias").requires_grad_(False)
    assert names(model) == ["1.weight", "1.bias", "3.weight", "3.bias", "1.running_mean", "1.running_var"]


def test_constants_are_left_alone() -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("positions", torch.ones(3), persistent=False)
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    model.register_buffer("scale", torch.ones(1))
    assert names(model) == ["weight", "bias", "scale"]


def test_each_dtype_has_its_own_vector() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).to(torch.bfloat16))
    vectors = flat_vectors(model)
    assert [vector.dtype for vector in vectors] == ["float32", "bfloat16"]
    assert [vector.staging.dtype for vector in vectors] == [np.float32, np.uint16]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_are_refused_with_the_name_and_the_way_out(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to(dtype))
    with pytest.raises(ValueError, match=rf"1\.weight is {str(dtype).removeprefix('torch.')}, .*model\.float\(\)"):
        shared_tensors(model)


class Held(nn.Module):
    """A layer, and a parameter or buffer beside it."""

    def __init__(self, parameter: torch.Tensor | None = None, buffer: torch.Tensor | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.beside = (
            None
            if parameter is None
            else nn.Parameter(parameter, parameter.dtype.is_floating_point or parameter.is_complex())
        )
        self.register_buffer("total", buffer)


SPECIAL = {
    "complex": (Held(torch.zeros(2, dtype=torch.complex64)), r"beside is complex64, .*view_as_real"),
    "a buffer": (Held(buffer=torch.zeros(2, dtype=torch.float64)), r"total is float64, .*float\(\).*persistent=False"),
    "lazy": (nn.Sequential(nn.LazyLinear(2)), r"0\.weight has no shape yet \(Uninit.*run a batch through the model"),
    "a lazy buffer": (nn.LazyBatchNorm1d(affine=False), r"running_mean has no shape yet \(UninitializedBuffer\)"),
    "meta": (
        nn.Sequential(nn.Linear(2, 2, device="meta")),
        r"0\.weight has no values \(device meta\).*to_empty\(device",
    ),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_tensors_that_cannot_be_shared_are_refused_with_the_name_and_the_way_out(kind: str) -> None:
    model, message = SPECIAL[kind]
    with pytest.raises(ValueError, match=message):
        shared_tensors(model)


def test_whole_numbers_that_are_frozen_are_never_shared() -> None:
    with pytest.raises(ValueError, match=r"beside is uint8, .*leave share_frozen=True out"):
        shared_tensors(Held(torch.zeros(2, dtype=torch.uint8)), frozen=True)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        shared_tensors(nn.Linear(2, 2).requires_grad_(False))


def test_compiled_and_plain_models_have_the_same_names() -> None:
    assert names(torch.compile(convolutions(), backend="eager")) == names(convolutions())  # type: ignore[arg-type]


def test_the_memory_order_is_part_of_what_must_agree() -> None:
    plain = [shared.spec.text for shared in shared_tensors(convolutions())]
    model = convolutions().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = [shared.spec.text for shared in shared_tensors(model)]
    assert plain[0] == "float32 (8, 3, 3, 3)"
    assert last[0] == "float32 (8, 3, 3, 3) strides (27, 1, 9, 3)"
    assert plain[1] == last[1] == "float32 (8,)"
    assert plain[-1] == "float32 (8,) statistic"


@pytest.mark.parametrize("move", [lambda model: model.to(torch.bfloat16), lambda model: model.double()])
def test_a_model_that_was_cast_afterwards_is_found_out(move: object) -> None:
    model = nn.Linear(3, 3)
    (vector,) = flat_vectors(model)
    move(model)  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="weight was moved after the Averager was made"):
        vector.check()


def test_loading_a_state_dict_keeps_the_flat_tensor() -> None:
    model, other = nn.Linear(3, 3), nn.Linear(3, 3)
    (vector,) = flat_vectors(model)
    model.load_state_dict(other.state_dict())
    vector.check()
    assert torch.equal(vector.flat[:9].view(3, 3), other.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_goes_to_the_box_and_back(dtype: torch.dtype, box: Box) -> None:
    model = nn.Linear(40, 30).to(dtype)
    (vector,) = flat_vectors(model)
    buffer = box.create("model", vector.size, vector.dtype)
    written = vector.flat.clone()
    vector.write(buffer)
    vector.flat.zero_()
    vector.read(buffer)
    assert torch.equal(vector.flat, written)
    buffer.close()


def test_saving_and_restoring_bring_back_every_bit() -> None:
    model = convolutions()
    (vector,) = flat_vectors(model)
    before = vector.flat.clone()
    vector.save()
    vector.flat.normal_()
    vector.restore()
    assert torch.equal(vector.flat, before)


def test_bfloat16_crosses_to_numpy_as_its_bits() -> None:
    array = as_numpy(torch.tensor([1.0, -2.0], dtype=torch.bfloat16))
    assert array.tolist() == [0x3F80, 0xC000]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_subtracting_and_taking_a_snapshot_at_once_is_one_after_the_other(dtype: torch.dtype) -> None:
    def corrected() -> FlatVector:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(400, 300), nn.BatchNorm1d(300)).to(dtype)  # longer than a piece
        (vector,) = flat_vectors(model)
        vector.snapshot()
        vector.flat.mul_(1.5)
        torch.from_numpy(vector.staging.view(np.uint8)).view(dtype).copy_(torch.randn(vector.size))
        return vector

    apart, at_once = corrected(), corrected()
    apart.subtract(0.3)
    apart.snapshot()
    at_once.subtract_and_snapshot(0.3)
    assert torch.equal(apart.flat, at_once.flat)
    np.testing.assert_array_equal(apart.staging, at_once.staging)
