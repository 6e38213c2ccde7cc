"""Every compression of exchanges: its codecs against plain loops, and what it promises over real connections."""

import math
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tests.box.cutting import Cut, CuttingProxy

from modum.box import Box, Server
from modum.box.compression import (
    COMPRESSIONS,
    LEAST_SCALE,
    SECTION,
    TILE,
    Bfloat16,
    Codec,
    Compression,
    Int8,
    Int12,
    Scaled,
    compression_of,
)
from modum.box.protocol.frames import Op, check_request
from modum.box.protocol.layout import Piece
from modum.box.protocol.limits import CHUNK, HEADER_BYTES
from modum.box.protocol.messages import SegmentInfo
from modum.box.transport import Attachment, Work
from modum.box.transport.requests import frames

Floats = NDArray[np.float32]
Octets = NDArray[np.uint8]

FLOATS = CHUNK // 4
CODECS: dict[str, Codec] = {"bfloat16": Bfloat16(), "int8": Int8(), "int12": Int12()}
COUNTS = (1, 2, 3, 4, 5, 127, 128, TILE - 1, TILE, TILE + 1, 2 * TILE, 1001)
# how far a number is from what is carried, in parts of its own size (bfloat16) or of its tile's largest (the others)
STEP = {"bfloat16": 2.0**-8, "int8": 0.5 / 127, "int12": 0.5 / 2047}
UP = {"bfloat16": "bfloat16", "int8": "int12"}
SLACK = 1.001  # for a few roundings to single precision

every = pytest.mark.parametrize("chosen", COMPRESSIONS.values(), ids=list(COMPRESSIONS))
every_codec = pytest.mark.parametrize("name", CODECS)
bits = hnp.arrays(np.uint32, st.integers(1, 2 * TILE + 3), elements=st.integers(0, 2**32 - 1))


def normal(count: int, seed: int = 0) -> Floats:
    """Numbers of like size, with some zeros."""
    x = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    x[::7] = 0
    return x


def single(value: float) -> float:
    """Round a double to single precision."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def by_hand(name: str, values: Sequence[float]) -> list[float]:
    """What is carried of each number: plain Python, a number at a time, as docs/reference/wire-format.md says it."""
    if name == "bfloat16":
        return [float(np.uint32(_upper(value) << 16).view(np.float32)) for value in values]
    largest, carried = {"int8": 127, "int12": 2047}[name], []
    for start in range(0, len(values), TILE):
        tile = values[start : start + TILE]
        if not all(map(math.isfinite, tile)):
            carried += [math.nan] * len(tile)
            continue
        scale = single(max(map(abs, tile)) / largest)
        if scale < 2.0**-120:
            carried += [0.0] * len(tile)
            continue
        factor = single(1 / scale)
        carried += [single(round(single(value * factor)) * scale) for value in tile]
    return carried


def _upper(value: float) -> int:
    """The upper half of a number's bits: cut off, or one more."""
    if math.isnan(value):
        return 0x7FC0
    (whole,) = struct.unpack("<I", struct.pack("<f", value))
    upper, lower = divmod(whole, 1 << 16)
    return int(upper + (lower > 1 << 15 or (lower == 1 << 15 and upper % 2 == 1)))


def coded(codec: Codec, values: Floats) -> tuple[Floats, Octets]:
    """What the encoder says will arrive, and the bytes."""
    octets = np.full(codec.nbytes(values.size), 0xA5, np.uint8)
    carried = values.copy()
    codec.encode(carried, octets)
    return carried, octets


def decoded(codec: Codec, octets: Octets, count: int) -> Floats:
    out = np.full(count, 7, np.float32)
    codec.decode(octets, out)
    return out


def same(found: Floats, due: Floats | list[float]) -> None:
    """Equal bits, where every NaN counts as one."""
    due = np.asarray(due, np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(due))
    kept = ~np.isnan(due)
    np.testing.assert_array_equal(found[kept].view(np.uint32), due[kept].view(np.uint32))


# ---- codecs


@every_codec
@settings(max_examples=50, deadline=None)
@given(bits=bits)
@example(bits=np.zeros(TILE + 1, np.uint32))
@example(bits=np.full(TILE + 1, 1 << 31, np.uint32))
@example(bits=np.arange(1, 300, dtype=np.uint32))
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_arbitrary_bits_come_out_as_the_same_computed_one_by_one(name: str, bits: NDArray[np.uint32]) -> None:
    with np.errstate(all="ignore"):
        carried, octets = coded(CODECS[name], bits.view(np.float32))
        out = decoded(CODECS[name], octets, bits.size)
    same(out, carried)
    same(out + np.float32(0), np.asarray(by_hand(name, bits.view(np.float32).tolist()), np.float32) + np.float32(0))


@every_codec
@pytest.mark.parametrize("count", [*COUNTS, SECTION])
def test_numbers_of_any_count_are_as_exact_as_is_promised(name: str, count: int) -> None:
    x = normal(count)
    out = decoded(CODECS[name], coded(CODECS[name], x)[1], count)
    of = np.abs(x)
    if isinstance(CODECS[name], Scaled):
        peaks = np.maximum.reduceat(np.abs(x), np.arange(0, count, TILE))
        of = np.repeat(peaks, TILE)[:count]
    assert (np.abs(out - x) <= np.float32(STEP[name] * SLACK) * of).all()


@every_codec
def test_what_was_carried_once_is_carried_again_as_it_is(name: str) -> None:
    carried, octets = coded(CODECS[name], normal(1001))
    again, repeated = coded(CODECS[name], carried)
    np.testing.assert_allclose(again, carried, rtol=2e-7)
    if name == "bfloat16":
        np.testing.assert_array_equal(octets, repeated)


@pytest.mark.parametrize("name", ["int8", "int12"])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_makes_its_tile_nan_and_no_other(name: str, bad: float) -> None:
    x = normal(3 * TILE + 5)
    x[TILE + 9] = bad
    out = decoded(CODECS[name], coded(CODECS[name], x)[1], x.size)
    wrong = np.isnan(out)
    assert wrong[TILE : 2 * TILE].all()
    assert not wrong[:TILE].any()
    assert not wrong[2 * TILE :].any()


def test_bfloat16_keeps_infinities_and_nans_where_they_are() -> None:
    x = np.array([1, math.inf, -math.inf, math.nan, -2], np.float32)
    same(decoded(Bfloat16(), coded(Bfloat16(), x)[1], 5), x)


@pytest.mark.parametrize("name", ["int8", "int12"])
def test_tiles_of_next_to_nothing_are_zero(name: str) -> None:
    codec = CODECS[name]
    assert isinstance(codec, Scaled)
    least = LEAST_SCALE * np.float32(codec.largest)
    x = np.full(2 * TILE, least, np.float32)
    x[TILE:] = np.nextafter(least * np.float32(1 - 1e-6), np.float32(0))
    x[TILE + 1] = 1e-45
    out = decoded(codec, coded(codec, x)[1], x.size)
    assert (out[:TILE] == least).all()
    assert (out[TILE:] == 0).all()


@pytest.mark.parametrize("name", ["int8", "int12"])
def test_the_largest_numbers_do_not_overflow(name: str) -> None:
    x = np.full(TILE, 3.4e38, np.float32)
    x[1::2] *= -1
    np.testing.assert_allclose(decoded(CODECS[name], coded(CODECS[name], x)[1], TILE), x, rtol=1e-6)


def test_twelve_bits_lie_where_the_document_says() -> None:
    q = np.array([1, -1, 2047, -2047, 0x123, -0x123, 5], np.int32)  # quarters of two, the last half empty
    x = q.astype(np.float32)  # the scale is 1
    octets = coded(Int12(), x)[1]
    assert octets[:4].view(np.float32)[0] == 1
    fourth = [5, 0]
    planes = octets[4:].view(np.uint16).reshape(3, 2)
    for k in range(3):
        for i in range(2):
            assert planes[k, i] == (int(q[2 * k + i]) & 0xFFF) | ((fourth[i] >> (4 * k) & 15) << 12)


@every
def test_any_bytes_are_numbers(chosen: Compression) -> None:
    """A server decodes what a client sends, whatever it is."""
    count = 1001
    octets = np.random.default_rng(0).integers(0, 256, chosen.sent(count), dtype=np.uint8)
    g = normal(count)
    chosen.exchange(g, octets, np.float32(0.5))
    assert g.size == count


# ---- an exchange


@every
def test_an_exchange_has_fewer_bytes_and_its_answer_fits_where_the_request_was(chosen: Compression) -> None:
    ratio = {"bfloat16": 2.0, "int8": 2.5}[chosen.name]
    assert 4 * FLOATS / chosen.sent(FLOATS) >= ratio
    assert chosen.sent(0) == chosen.answered(0) == 0
    for count in (*COUNTS, SECTION, SECTION + 1, FLOATS):
        assert 0 < chosen.answered(count) <= chosen.sent(count) <= CHUNK


@every
@pytest.mark.parametrize("count", [1, 5, 300, SECTION, SECTION + 1, 2 * SECTION + 301])
def test_both_sides_compute_with_the_bits_that_crossed(chosen: Compression, count: int) -> None:
    """The codecs, section by section, and the formulas: what both sides of an exchange must come to."""
    x, g, a = normal(count, 1), normal(count, 2), np.float32(0.3)
    arrived, e = np.empty_like(x), np.empty_like(x)
    for start in range(0, count, SECTION):
        part = slice(start, min(start + SECTION, count))
        arrived[part], _ = coded(chosen.up, x[part])
        e[part], _ = coded(chosen.down, arrived[part] - g[part])
    for leave, due in (("moved", x - a * e), ("difference", a * e), ("present", arrived - e)):
        mine, shared = x.copy(), g.copy()
        chosen.both_sides(shared, mine, a, leave)  # type: ignore[arg-type]
        same(shared, g + a * e)
        same(mine, due)


@every
def test_a_moving_rate_of_zero_moves_nothing_and_still_tells_what_is_there(chosen: Compression) -> None:
    x, g = normal(1001, 1), normal(1001, 2)
    there, shared = x.copy(), g.copy()
    chosen.both_sides(shared, there, np.float32(0), "present")
    np.testing.assert_array_equal(shared, g)
    assert np.abs(there - g).max() <= np.abs(x - g).max() / 100


def floor(chosen: Compression, x: Floats) -> float:
    """What rounding x may leave between x and g for good."""
    return float(STEP[UP[chosen.name]] * SLACK * np.abs(x).max())


@every
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_what_rounding_leaves_out_comes_with_the_next_exchanges(chosen: Compression, rate: float) -> None:
    """g goes to what arrives of x: x itself, but for the rounding of x. The rounding of e leaves nothing."""
    x, g = normal(1001, 1), normal(1001, 2)
    x[:] = np.sign(x) * (1 + np.abs(x))
    arrived, _ = coded(chosen.up, x)
    for _ in range(math.ceil(20 / rate)):
        chosen.both_sides(g, x.copy(), np.float32(rate), "difference")
    np.testing.assert_allclose(g, arrived, rtol=0, atol=1e-6 * np.abs(x).max())
    assert np.abs(x - g).max() <= floor(chosen, x) + 1e-6 * np.abs(x).max()


@every
def test_two_sides_that_move_toward_each_other_meet_and_lose_nothing(chosen: Compression) -> None:
    x, g = normal(1001, 1), normal(1001, 2)
    total = x.astype(np.float64) + g
    for _ in range(60):
        chosen.both_sides(g, x, np.float32(0.3), "moved")
    assert np.abs(x - g).max() <= 1.05 * floor(chosen, x)
    np.testing.assert_allclose(x.astype(np.float64) + g, total, atol=1e-5)


def test_a_name_that_is_none_of_them_is_refused_with_those_that_are() -> None:
    assert compression_of("none") is None
    with pytest.raises(ValueError, match="compression must be one of none, bfloat16, int8, not 'gzip'"):
        compression_of("gzip")


# ---- over real connections


@pytest.fixture
def pair(patient_server: Server) -> Iterator[tuple[Box, Box]]:
    """One client that goes over TCP, and one that maps the memory."""
    with Box.connect(patient_server.address, transport="tcp", timeout=10) as far:
        with Box.connect(patient_server.address, transport="local", timeout=10) as near:
            yield far, near


@every
@pytest.mark.parametrize(("count", "offset"), [(1, 3), (300, 0), (FLOATS + 5, 0), (3 * FLOATS + 77, 1001)])
def test_over_tcp_the_server_computes_what_is_computed_here(
    chosen: Compression, count: int, offset: int, pair: tuple[Box, Box]
) -> None:
    far, _ = pair
    x, g = normal(count, 1), normal(offset + count + 9, 2)
    buffer = far.create("b", g.size)
    for leave in ("moved", "difference", "present"):
        buffer.write(g)
        mine, due, shared = x.copy(), x.copy(), g.copy()
        buffer.exchange(mine, 0.3, offset=offset, leave=leave, compression=chosen.name)
        here = 0
        while here < count:  # a request for each chunk
            there = min(count, (offset + here) // FLOATS * FLOATS + FLOATS - offset)
            at = slice(offset + here, offset + there)
            chosen.both_sides(shared[at], due[here:there], np.float32(0.3), leave)
            here = there
        same(mine, due)
        same(buffer.read(), shared)


@every
def test_a_client_that_maps_the_memory_computes_exactly_as_without(chosen: Compression, pair: tuple[Box, Box]) -> None:
    _, near = pair
    results = []
    for how in ("none", chosen.name):
        buffer = near.create(how, 1001)
        buffer.write(normal(1001, 2))
        x = normal(1001, 1)
        buffer.exchange(x, 0.3, compression=how)
        results.append((x, buffer.read()))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@every
def test_what_goes_through_a_ring_is_not_compressed(chosen: Compression) -> None:
    """RDMA moves numbers beside the frames: as they are, and the request says nothing of a compression."""
    info = SegmentInfo("b", 1, 1, [1000], "float32", 4000, 4000, 0, b"")
    x = normal(1000)
    work = Work(
        op=Op.EXCHANGE, target=Attachment(info), pieces=[Piece(0, 0, 4000)], data=x, compression=chosen, timeout=1
    )
    (request,) = frames(work, staged=True)
    assert request.header.compression is None
    assert request.staged == x.view(np.uint8).data
    (request,) = frames(work)
    assert request.header.compression is chosen
    assert request.header.payload == len(request.payload) == chosen.sent(1000)
    check_request(request.header)


@every
def test_nan_of_one_worker_is_seen_by_all(chosen: Compression, pair: tuple[Box, Box]) -> None:
    far, _ = pair
    buffer = far.create("b", 1000)
    x = normal(1000)
    x[500] = np.nan
    buffer.exchange(x, 0.3, compression=chosen.name)
    assert np.isnan(x[500])
    shared = buffer.read()
    assert np.isnan(shared[500])
    assert not np.isnan(shared[:250]).any()


@every
@pytest.mark.parametrize("dtype", ["bfloat16", "int64"])
def test_a_buffer_of_another_dtype_is_refused_and_left_alone(
    chosen: Compression, dtype: str, pair: tuple[Box, Box]
) -> None:
    for box in pair:
        buffer = box.open_or_create("b", 10, dtype)
        x = np.ones(10, np.uint16 if dtype == "bfloat16" else np.int64)
        with pytest.raises(ValueError, match=r"buffer 'b' is bfloat16.*leave compression|exchange needs a floating"):
            buffer.exchange(x, 0.3, compression=chosen.name)
        assert not buffer.read().any()


def test_a_compression_that_there_is_not_is_refused_on_every_transport(pair: tuple[Box, Box]) -> None:
    for box in pair:
        buffer = box.open_or_create("b", 10)
        with pytest.raises(ValueError, match="must be one of none, bfloat16, int8, not 'zip'"):
            buffer.exchange(np.ones(10, np.float32), 0.3, compression="zip")  # type: ignore[arg-type]


@every
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("octets", [10, HEADER_BYTES + 5000])
def test_an_exchange_counts_once_when_a_connection_is_cut(
    chosen: Compression, direction: str, octets: int, patient_server: Server
) -> None:
    count = 6 * FLOATS + 100  # more requests than may be under way
    x, g = normal(count, 1), normal(count, 2)
    due, shared = x.copy(), g.copy()
    for start in range(0, count, FLOATS):
        chosen.both_sides(shared[start : start + FLOATS], due[start : start + FLOATS], np.float32(0.3), "moved")
    with Box.connect(patient_server.address, timeout=10) as near:
        near.create("b", count).write(g)
        # JOIN and OPEN come before
        cuts = [Cut(direction, frame, octets) for frame in (2, 5, 8)]
        with CuttingProxy(patient_server.address, cuts) as proxy:
            with Box.connect(proxy.address, transport="tcp", timeout=10) as far:
                far.open("b").exchange(x, 0.3, compression=chosen.name)
            assert not proxy.left
        same(x, due)
        same(near.open("b").read(), shared)
