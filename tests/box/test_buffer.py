"""What is not exactly meant is refused with the value, what is accepted and the fix; what is exact is accepted."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from modum.box import Box, Buffer, Server
from modum.box.kernels import factor_for
from modum.box.protocol.limits import CHUNK, MAX_BUFFER
from modum.errors import BufferNotFoundError


@pytest.fixture
def small(server: Server) -> Iterator[Box]:
    """A box with a buffer of two elements of every dtype, each named like it."""
    with Box.connect(server.address, transport="tcp", timeout=10) as box:
        for dtype in ("float32", "bfloat16", "int64"):
            box.create(dtype, 2, dtype)
        yield box


def is_unchanged(buffer: Buffer) -> bool:
    return buffer.read().tolist() == [0, 0] and buffer.version == 0


REFUSED = {
    "big-endian floats": ("float32", np.array([1, 2], ">f4"), r"x is big-endian .>f4.*astype\('float32'\)"),
    "big-endian whole numbers": ("int64", np.array([1, 2], ">i8"), r"x is big-endian .>i8.*astype\('int64'\)"),
    "big-endian bits": ("bfloat16", np.array([1, 2], ">u2"), r"x is big-endian .>u2.*astype\('uint16'\)"),
    "numbers as bits": ("bfloat16", [1.0, 2.0], r"x is a list.*uint16 arrays.*ml_dtypes.bfloat16"),
    "whole numbers as bits": ("bfloat16", [1, 2], r"x is a list.*uint16 arrays.*ml_dtypes.bfloat16"),
    "a number as bits": ("bfloat16", 1.0, r"x is a float.*uint16 arrays.*ml_dtypes.bfloat16"),
    "a fraction": ("int64", [1, 1.5], r"x has 1.5.*'int64' is int64.*whole numbers.*round"),
    "NaN": ("int64", [1.0, float("nan")], r"x has nan.*whole numbers"),
    "infinity": ("int64", [float("inf"), 1], r"x has inf.*whole numbers"),
    "what int64 cannot hold": ("int64", [1, 2**63], r"x has 9223372036854775808.*\[-2\*\*63, 2\*\*63\)"),
    "what no integer can hold": ("int64", [1, 2**70], r"x has 1180591620717411303424.*\[-2\*\*63, 2\*\*63\)"),
    "a float beyond int64": ("int64", [1.0, 2.0**63], r"x has 9.22\S+e\+18.*\[-2\*\*63, 2\*\*63\)"),
    "a whole number that is rounded": ("float32", [1, 2**24 + 1], r"x has 16777217.*float32.*exactly"),
    "what float32 cannot hold": ("float32", [1.0, 1e39], r"x has 1e\+39.*float32"),
    "complex numbers": ("float32", [1j, 2], r"x has 1j"),
    "words": ("float32", ["1", "2"], r"x has .1.,"),
    "another dtype": ("float32", np.array([1.0, 2.0]), r"x is float64, buffer 'float32' is float32.*astype"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_on_its_way_is_refused(small: Box, case: str) -> None:
    dtype, x, reason = REFUSED[case]
    buffer = small.open(dtype)
    for act in (buffer.write, buffer.add):
        with pytest.raises((ValueError, TypeError), match=reason):
            act(x)
    assert is_unchanged(buffer)


@pytest.mark.parametrize(
    ("dtype", "x", "stored"),
    [
        ("int64", [1, -(2**63)], [1, -(2**63)]),
        ("int64", [1.0, 2.0], [1, 2]),
        ("int64", np.array([3, 4], np.int64), [3, 4]),
        ("int64", (True, 2**63 - 1), [1, 2**63 - 1]),
        ("float32", [0.1, 2], [float(np.float32(0.1)), 2.0]),
        ("float32", [float("inf"), -1e-50], [float("inf"), 0.0]),
        ("float32", [2**24, 2**100], [2.0**24, 2.0**100]),
        ("bfloat16", np.array([1, 2], ml_dtypes.bfloat16), [0x3F80, 0x4000]),
        ("bfloat16", [np.uint16(0x3F80), np.uint16(0x4000)], [0x3F80, 0x4000]),
        ("bfloat16", np.array([0x3F80, 0x4000], np.uint16), [0x3F80, 0x4000]),
    ],
)
def test_what_fits_is_accepted(small: Box, dtype: str, x: Any, stored: list[float]) -> None:
    buffer = small.open(dtype)
    buffer.write(x)
    assert buffer.read().tolist() == stored


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (np.zeros(4, np.float32)[::2], "x is not C-contiguous: pass np.ascontiguousarray"),
        (np.zeros((2, 4), np.float32).T[:1], "x is not C-contiguous"),
        (np.broadcast_to(np.float32(0), 2), "x is not C-contiguous"),
        (np.frombuffer(bytes(8), np.float32), "x is read-only, and would be changed in place: pass a copy"),
        (np.zeros(2, ">f4"), "x is big-endian"),
        ([0.0, 0.0], "x must be a NumPy array, not list"),
        (np.ma.masked_array(np.zeros(2, np.float32), [True, False]), "x is a masked array, and buffers have no masks"),
    ],
)
def test_an_array_that_cannot_be_changed_in_place_is_refused(small: Box, x: Any, reason: str) -> None:
    buffer = small.open("float32")
    with pytest.raises((ValueError, TypeError), match=reason):
        buffer.exchange(x, 0.5)
    with pytest.raises((ValueError, TypeError), match=reason.replace("x ", "out ", 1)):
        buffer.read(x)
    assert is_unchanged(buffer)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_an_array_that_stays_2d_is_taken_for_its_elements(server: Server, transport: str) -> None:
    """Slices of a matrix are rows: larger ones were sent as what the frames did not announce."""
    numbers = np.arange(3 * CHUNK // 4, dtype=np.float32)
    with Box.connect(server.address, transport=transport, timeout=10) as box:
        buffer = box.create("b", numbers.size)
        buffer.write(np.matrix(numbers))
        buffer.add(np.matrix(numbers))
        seen = np.matrix(np.zeros_like(numbers))
        buffer.read(seen)
        np.testing.assert_array_equal(np.asarray(seen)[0], 2 * numbers)
        x = np.matrix(np.zeros_like(numbers))
        buffer.exchange(x, 0.5)
        np.testing.assert_array_equal(np.asarray(x)[0], numbers)
        np.testing.assert_array_equal(buffer.read(), numbers)


@pytest.mark.parametrize("offset", [0.5, 1.0, "1", None])
def test_an_offset_is_a_whole_number(small: Box, offset: Any) -> None:
    buffer = small.open("float32")
    one = np.ones(1, np.float32)
    for act in (
        lambda: buffer.write(one, offset=offset),
        lambda: buffer.read(offset=offset, count=1),
        lambda: buffer.copy(buffer, offset=offset, source_offset=0, count=1),
        lambda: buffer.axpy(2, buffer, offset=0, source_offset=offset, count=1),
    ):
        with pytest.raises(TypeError, match="offset must be a whole number, not"):
            act()
    assert is_unchanged(buffer)


def test_an_offset_of_few_bits_does_not_overflow(server: Server) -> None:
    with Box.connect(server.address, transport="tcp", timeout=10) as box:
        buffer = box.create("b", 200)
        small: Any = np.int8
        buffer.write([1.0], offset=small(100))  # byte 400, which an int8 does not hold
        assert np.flatnonzero(buffer.read()).tolist() == [100]
        assert buffer.read(offset=small(99), count=small(2)).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_a_buffer_of_another_box_is_no_source(server: Server, transport: str) -> None:
    with (
        Server(memory=1 << 20) as other_server,
        Box.connect(server.address, transport=transport, timeout=10) as box,
        Box.connect(other_server.address, transport=transport, timeout=10) as other,
    ):
        target, wrong, same = box.create("a", 2), other.create("b", 2), other.create("a", 2)
        box.create("b", 2).write([5.0, 5.0])
        wrong.write([7.0, 7.0])
        told = rf"of another Box \(memory servers {other_server.address}\)"
        for source in (wrong, same):
            with pytest.raises(ValueError, match=told):
                target.copy(source)
            with pytest.raises(ValueError, match=told):
                target.scale(2, source)
            with pytest.raises(ValueError, match=told):
                target.axpy(2, source)
        assert is_unchanged(target)


@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_a_deleted_buffer_is_no_source(server: Server, transport: str) -> None:
    with Box.connect(server.address, transport=transport, timeout=10) as box:
        target, source, old = box.create("a", 2), box.create("b", 2), box.open("a")
        source.write([7.0, 7.0])
        box.delete("b")
        with pytest.raises(BufferNotFoundError, match="was deleted"):
            target.copy(source)
        assert is_unchanged(target)
        box.delete("a")
        target = box.create("a", 2)
        with pytest.raises(BufferNotFoundError, match="was deleted"):
            target.copy(old)
        assert is_unchanged(target)


@pytest.mark.parametrize("factor", [1.5, float("nan"), float("inf"), 2**53 + 1, 2**70, 10**400])
def test_a_factor_of_whole_numbers_is_one(small: Box, factor: float) -> None:
    with pytest.raises(ValueError, match="a whole-number factor of at most"):
        small.open("int64").add([1, 2], factor)


@pytest.mark.parametrize("factor", [1e39, -1e39, 2**200, 10**400])
def test_a_factor_that_single_precision_cannot_hold_is_refused(small: Box, factor: float) -> None:
    for dtype in ("float32", "bfloat16"):
        buffer = small.open(dtype)
        with pytest.raises(ValueError, match=r"a factor of at most 3.4e38, not"):
            buffer.scale(factor)
        assert is_unchanged(buffer)


def test_a_factor_is_one_number() -> None:
    for factor in ([1.0, 2.0], "2", np.ones(2), 1j, None):
        with pytest.raises(TypeError, match="a factor is one real number, not"):
            factor_for("float32", factor)  # type: ignore[arg-type]
    assert factor_for("float32", np.float64(0.5)) == 0.5
    assert np.isnan(factor_for("float32", float("nan")))
    assert factor_for("float32", float("-inf")) == -np.inf
    assert factor_for("int64", np.int64(3)) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [2**70, (2**40, 2**40), 2**62, (1,) * 31 + (2**61,)])
def test_a_shape_beyond_the_limit_is_told_the_limit(small: Box, shape: Any) -> None:
    for make in (small.create, small.open_or_create):
        with pytest.raises(ValueError, match=rf"a buffer has at most {MAX_BUFFER} bytes, not \d+"):
            make("b", shape)


@pytest.mark.parametrize("shape", [1.5, (2, 1.5), "12", None, (2.0,)])
def test_an_extent_is_a_whole_number(small: Box, shape: Any) -> None:
    for make in (small.create, small.open_or_create):
        with pytest.raises(TypeError, match="a shape is a whole number or a sequence of them, not"):
            make("b", shape)


def test_extents_of_numpy_are_whole_numbers(small: Box) -> None:
    assert small.create("a", np.int64(3)).shape == (3,)  # type: ignore[arg-type]
    assert small.open_or_create("b", np.array([2, 3])).shape == (2, 3)  # type: ignore[arg-type]


def test_what_64_bits_cannot_hold_is_refused_everywhere(small: Box) -> None:
    for act in (
        lambda: small.counter("c").add(2**70),
        lambda: small.counter("c").wait(2**70),
        lambda: small.queue("q", 2**70),
        lambda: small.open("int64").wait(2**70),
        lambda: small.value("v").set(2**70),
        lambda: small.create("b", 2, meta={"n": 2**70}),
    ):
        with pytest.raises(ValueError, match=r"64 bits"):
            act()
    assert small.counter("c").value == 0
