"""The two implementations of the arithmetic against each other, and against formulas and torch."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modum.box.kernels import STORAGE, factor_for, fused, portable

KERNELS = {"fused": fused, "portable": portable}
bits32 = hnp.arrays(np.uint32, 37, elements=st.integers(0, 2**32 - 1))
bits16 = hnp.arrays(np.uint16, 37, elements=st.integers(0, 2**16 - 1))


def numbers(dtype: str, data: st.DataObject) -> Any:
    """37 arbitrary bit patterns: infinities, NaNs and subnormals included."""
    if dtype == "float32":
        return data.draw(bits32).view(np.float32)
    if dtype == "bfloat16":
        return data.draw(bits16)
    return data.draw(hnp.arrays(np.int64, 37, elements=st.integers(-(2**62), 2**62)))


def same(dtype: str, a: Any, b: Any) -> None:
    """Equal bits, where every NaN counts as one."""
    if dtype == "bfloat16":
        a, b = (np.where((x & 0x7FFF) > 0x7F80, np.uint16(0x7FC0), x) for x in (a, b))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", list(STORAGE))
@pytest.mark.parametrize("name", ["add", "exchange", "difference", "present", "subtract", "scale"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fused_and_portable_give_the_same_bits(name: str, dtype: str, data: st.DataObject) -> None:
    if dtype == "int64" and name not in ("add", "scale"):
        return
    g, x = numbers(dtype, data), numbers(dtype, data)
    factor = factor_for(dtype, data.draw(st.integers(-3, 3) if dtype == "int64" else st.floats(-2, 2, width=32)))
    results = []
    for kernels in KERNELS.values():
        kernels.prepare(dtype)
        target, other = g.copy(), x.copy()
        arguments = (target, other) if name == "subtract" else (target, other, factor)
        getattr(kernels, name)(dtype, *arguments)
        results.append((target, other))
    same(dtype, results[0][0], results[1][0])
    same(dtype, results[0][1], results[1][1])


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=list(KERNELS))
def test_float32_rounds_after_every_operation(kernels: Any) -> None:
    rng = np.random.default_rng(0)
    g, x = rng.standard_normal((2, 1000), np.float32)
    a = np.float32(0.1)
    moved, target = x.copy(), g.copy()
    kernels.exchange("float32", target, moved, a)
    d = a * (x - g)  # NumPy keeps single precision, one rounding an operation
    np.testing.assert_array_equal(moved, x - d)
    np.testing.assert_array_equal(target, g + d)


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=list(KERNELS))
def test_bfloat16_rounds_as_torch_does(kernels: Any) -> None:
    import torch

    every = np.arange(2**16, dtype=np.uint16)
    target = np.zeros_like(every)
    kernels.add("bfloat16", target, every, np.float32(1.2345))
    wide = torch.from_numpy(every.copy()).view(torch.bfloat16).float()
    expected = (0.0 + wide * torch.tensor(1.2345)).to(torch.bfloat16).view(torch.uint16).numpy()
    same("bfloat16", target, expected)


def test_int64_takes_whole_factors_only() -> None:
    assert factor_for("int64", 3.0) == 3
    for bad in (0.5, float("nan"), float("inf"), 2.0**60):
        with pytest.raises(ValueError, match="whole-number factor"):
            factor_for("int64", bad)
