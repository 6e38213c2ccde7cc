"""Exchanges with fewer bytes on the wire: how numbers travel, and what that makes of an exchange.

Only the wire is compressed; both sides keep their numbers in single precision. The client sends x, of which x' arrives;
the server answers with e = x' - g, of which e' arrives, and both sides move by d = a e':

    client   x ---- up ---->  x'  server          g  in single precision
             e' <-- down ---  e'  = rounded(x' - g)
             x -= a e'            g += a e'

The server rounds e before it uses it, so that both sides move by the same number, to the bit. What rounding leaves out
of e stays in x - g, and comes with the next exchange: nothing needs to be remembered.

Everything here is NumPy, an operation at a time: the same bits on every machine.

Another format is a `Compression` in `COMPRESSIONS`, of two codecs; `tests/box/test_compression.py` says whether it is
one. docs/reference/wire-format.md has the bytes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from modum.box.kernels import Leave
from modum.box.kernels.portable import narrow, widen

__all__ = [
    "BY_CODE",
    "COMPRESSIONS",
    "LEAST_SCALE",
    "SECTION",
    "TILE",
    "Codec",
    "Compression",
    "CompressionName",
    "compression_of",
]

CompressionName = Literal["none", "bfloat16", "int8"]
"""How the numbers of an exchange travel: see `modum.box.Buffer.exchange`."""

Floats = NDArray[np.float32]
Octets = NDArray[np.uint8]

SECTION: Final = 1 << 16
"""Numbers that are coded together: few enough to stay in the cache, through all passes."""
TILE: Final = 256
"""Numbers that have one scale."""
LEAST_SCALE: Final = np.float32(2.0**-120)
"""A tile whose scale would be less travels as zeros: a scale, and its sixteenth, have all their bits."""

_MAGIC: Final = np.float32(3 << 22)
"""1.5 * 2**23: to add it to a number of at most 2**22 rounds that to a whole one, half to even, in the lowest bits."""
_quiet = np.errstate(all="ignore")  # a model that diverges is its trainer's concern


class Codec(ABC):
    """How float32 travels in one direction, a section of at most `SECTION` numbers at a time."""

    @abstractmethod
    def nbytes(self, count: int) -> int:
        """Return the bytes of a section of so many numbers; none for none."""

    @abstractmethod
    def encode(self, values: Floats, out: Octets) -> None:
        """Write a section, and leave in `values` what `decode` will make of it.

        Args:
            values: the numbers, in memory of their own, which is changed.
            out: `nbytes(values.size)` bytes.
        """

    @abstractmethod
    def decode(self, data: Octets, out: Floats) -> None:
        """Read a section.

        Args:
            data: `nbytes(out.size)` bytes, whatever they are; none of them is written.
            out: set to the numbers.
        """


class Bfloat16(Codec):
    """The upper half of each number, rounded to nearest even."""

    def nbytes(self, count: int) -> int:
        return 2 * count

    def encode(self, values: Floats, out: Octets) -> None:
        bits = narrow(values)
        out.view(np.uint16)[:] = bits
        values[:] = widen(bits)

    def decode(self, data: Octets, out: Floats) -> None:
        out[:] = widen(data.view(np.uint16))


class Scaled(Codec):
    """Tiles of `TILE` numbers, each a float32 scale times whole numbers of a few bits.

    The scale of a tile is its largest magnitude / `largest`, and a whole number the nearest to value / scale. A tile
    with an infinity or NaN has the scale NaN, and comes out as NaN.

    Attributes:
        largest: the largest whole number.
    """

    largest: int

    @abstractmethod
    def _wholes(self, count: int) -> int:
        """Return the bytes of so many whole numbers."""

    @abstractmethod
    def _pack(self, wholes: NDArray[np.int32], out: Octets) -> None:
        """Write whole numbers, of which the lowest bits count."""

    @abstractmethod
    def _unpack(self, data: Octets, out: Floats) -> float:
        """Read whole numbers, and return by what they are to be multiplied."""

    def nbytes(self, count: int) -> int:
        return 4 * _tiles(count) + self._wholes(count)

    def encode(self, values: Floats, out: Octets) -> None:
        tiles, count = _tiles(values.size), values.size
        padded = values if count == tiles * TILE else np.zeros(tiles * TILE, np.float32)
        if padded is not values:
            padded[:count] = values
        rows = padded.reshape(tiles, TILE)
        scales = np.abs(rows).max(axis=1)
        wild = ~(scales < np.inf)
        scales /= np.float32(self.largest)
        scales[scales < LEAST_SCALE] = 0
        factors = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
        if wild.any():
            scales[wild] = np.nan
            factors[wild] = 0
            rows[wild] = 0
        rows *= factors[:, None]
        rows += _MAGIC
        self._pack(padded[:count].view(np.int32), out[4 * tiles :])
        rows -= _MAGIC
        rows *= scales[:, None]
        out[: 4 * tiles].view(np.float32)[:] = scales
        if padded is not values:
            values[:] = padded[:count]

    def decode(self, data: Octets, out: Floats) -> None:
        tiles, whole = _tiles(out.size), out.size // TILE
        scales = data[: 4 * tiles].view(np.float32) * np.float32(self._unpack(data[4 * tiles :], out))
        rows = out[: whole * TILE].reshape(whole, TILE)
        rows *= scales[:whole, None]
        out[whole * TILE :] *= scales[-1]


class Int8(Scaled):
    """Whole numbers of 8 bits."""

    largest = 127

    def _wholes(self, count: int) -> int:
        return count

    def _pack(self, wholes: NDArray[np.int32], out: Octets) -> None:
        np.copyto(out.view(np.int8), wholes, casting="unsafe")

    def _unpack(self, data: Octets, out: Floats) -> float:
        out[:] = data.view(np.int8)
        return 1.0


class Int12(Scaled):
    """Whole numbers of 12 bits, four in three words of 16.

    The numbers of a section are cut into four quarters, the last of which is filled with zeros. Word i of the k-th of
    three planes has number i of the k-th quarter in its lower 12 bits; the upper ones have 4 bits each of number i of
    the fourth.
    """

    largest = 2047

    def _wholes(self, count: int) -> int:
        return 6 * _quarter(count)

    def _pack(self, wholes: NDArray[np.int32], out: Octets) -> None:
        quarter = _quarter(wholes.size)
        words = np.empty((4, quarter), np.uint16)
        words.reshape(-1)[wholes.size :] = 0
        np.copyto(words.reshape(-1)[: wholes.size].view(np.int16), wholes, casting="unsafe")
        fourth = words[3]
        words[:3] &= 0x0FFF
        words[0] |= fourth << 12
        words[1] |= (fourth << 8) & 0xF000
        words[2] |= (fourth << 4) & 0xF000
        out.view(np.uint16)[:] = words[:3].reshape(-1)

    def _unpack(self, data: Octets, out: Floats) -> float:
        quarter = _quarter(out.size)
        packed = data.view(np.uint16).reshape(3, quarter)
        words = np.empty((4, quarter), np.uint16)  # each number sixteen times, so that its sign is where it belongs
        np.left_shift(packed, 4, out=words[:3])
        fourth = words[3]
        np.bitwise_and(packed[2], 0xF000, out=fourth)
        fourth |= (packed[1] >> 4) & 0x0F00
        fourth |= (packed[0] >> 8) & 0x00F0
        out[:] = words.reshape(-1)[: out.size].view(np.int16)
        return 1 / 16


def _tiles(count: int) -> int:
    return -(-count // TILE)


def _quarter(count: int) -> int:
    return -(-count // 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """A way in which the numbers of an exchange travel.

    Attributes:
        name: what the user calls it.
        code: what the header of a frame calls it, 1 to 15.
        up: for x.
        down: for e. It takes no more bytes than `up`, for the answer is kept where the request was.
    """

    name: CompressionName
    code: int
    up: Codec
    down: Codec

    def sent(self, count: int) -> int:
        """Return the bytes that a request with so many numbers carries."""
        return _total(self.up, count)

    def answered(self, count: int) -> int:
        """Return the bytes that the reply to it carries."""
        return _total(self.down, count)

    @_quiet
    def encode(self, x: Floats, out: Octets) -> None:
        """Write what is to be sent of x into `out`, of `sent(x.size)` bytes."""
        for part, data in zip(_parts(x), _sections(self.up, x.size, out), strict=True):
            self.up.encode(part.copy(), data)

    @_quiet
    def exchange(self, g: Floats, octets: Octets, moving_rate: np.float32) -> None:
        """Do the server's side: g += a e', with what was sent in `octets`, and leave there the answer.

        Args:
            g: the shared numbers.
            octets: at least `sent(g.size)` bytes; the first `answered(g.size)` of them become the answer.
            moving_rate: a.
        """
        spare = np.empty(min(g.size, SECTION), np.float32)
        sections = zip(_parts(g), _sections(self.up, g.size, octets), _sections(self.down, g.size, octets), strict=True)
        for part, data, answer in sections:
            e = spare[: part.size]
            self.up.decode(data, e)
            e -= part
            self.down.encode(e, answer)
            e *= moving_rate
            part += e

    @_quiet
    def settle(self, x: Floats, answer: Octets, moving_rate: np.float32, leave: Leave, sent: Octets) -> None:
        """Do the client's side with the answer: leave in x what the caller asked for.

        Args:
            x: as it was when it was encoded; changed.
            answer: of the server.
            moving_rate: a.
            leave: "moved": x - a e'; "difference": a e'; "present": x' - e', which is g but for what e' lacks of e.
            sent: what `encode` wrote.
        """
        spare = np.empty(min(x.size, SECTION), np.float32)
        sections = zip(_parts(x), _sections(self.up, x.size, sent), _sections(self.down, x.size, answer), strict=True)
        for part, data, reply in sections:
            e = spare[: part.size]
            self.down.decode(reply, e)
            if leave == "present":
                self.up.decode(data, part)
            else:
                e *= moving_rate
            if leave == "difference":
                part[:] = e
            else:
                part -= e

    def both_sides(self, g: Floats, x: Floats, moving_rate: np.float32, leave: Leave) -> None:
        """Do both sides at once, as one request would: for simulations.

        Args:
            g: the shared numbers, which move.
            x: the client's; left as `leave` says.
            moving_rate: a.
            leave: see `settle`.
        """
        sent = np.empty(self.sent(x.size), np.uint8)
        self.encode(x, sent)
        answer = sent.copy()
        self.exchange(g, answer, moving_rate)
        self.settle(x, answer, moving_rate, leave, sent)


def _total(codec: Codec, count: int) -> int:
    whole, rest = divmod(count, SECTION)
    return whole * codec.nbytes(SECTION) + codec.nbytes(rest)


def _parts(numbers: Floats) -> Any:
    return (numbers[start : start + SECTION] for start in range(0, numbers.size, SECTION))


def _sections(codec: Codec, count: int, octets: Octets) -> Any:
    """Yield the bytes of each section."""
    size = codec.nbytes(SECTION)
    for number, start in enumerate(range(0, count, SECTION)):
        begin = number * size
        yield octets[begin : begin + codec.nbytes(min(SECTION, count - start))]


COMPRESSIONS: Final[dict[str, Compression]] = {
    each.name: each
    for each in (
        Compression(name="bfloat16", code=1, up=Bfloat16(), down=Bfloat16()),
        Compression(name="int8", code=2, up=Int12(), down=Int8()),
    )
}
"""All of them, by name; "none" is none of them."""
BY_CODE: Final = {each.code: each for each in COMPRESSIONS.values()}


def compression_of(name: str) -> Compression | None:
    """Return the compression of this name, or None for "none".

    Args:
        name: one of `CompressionName`.

    Returns:
        The compression.

    Raises:
        ValueError: there is none of this name.
    """
    if name != "none" and name not in COMPRESSIONS:
        raise ValueError(f"compression must be one of none, {', '.join(COMPRESSIONS)}, not {name!r}")
    return COMPRESSIONS.get(name)
