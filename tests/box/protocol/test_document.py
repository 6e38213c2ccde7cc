"""docs/reference/wire-format.md says what the code does: the frame in hex, the messages, the limits."""

import re
import struct
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from modum.box.protocol import limits, messages
from modum.box.protocol.frames import LAST, MAGIC, PUBLISH, Header, Op, parse_header
from modum.errors import ProtocolError

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "wire-format.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """The rows below a heading row that begins so, by their first cell."""
    (lines,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows}


def entries(kind: type[msgspec.Struct]) -> str:
    """Names and defaults as the document writes them."""
    defaults = {None: " = null", 0: " = 0", "": ' = ""'}
    return ", ".join(field.name + defaults.get(field.default, "") for field in msgspec.structs.fields(kind))


def test_the_version_is_that_of_the_code() -> None:
    assert TEXT.startswith(f"# Wire format, version {MAGIC[3]}\n")


def test_the_frame_in_hex_is_what_it_is_said_to_be() -> None:
    (dump,) = re.findall(r"```\n([0-9a-f\s]+)```", TEXT)
    header = Header(Op.ADD, 7, 8, LAST | PUBLISH, segment=3, offset=4096, factor=0.5, count=8)
    frame = bytes.fromhex(dump)
    assert frame == header.pack() + struct.pack("<2f", 1.0, -2.0)
    assert parse_header(frame[: limits.HEADER_BYTES]) == header


def test_every_request_is_listed_with_its_entries() -> None:
    rows = table("request")
    assert {name: row[0] for name, row in rows.items()} == {
        kind.__name__: entries(kind) for kind in get_args(messages.Request)
    }


def test_every_answer_is_listed_with_its_entries() -> None:
    rows = table("answer")
    handshake = {"Greeting", "Challenge", "Proof", "Welcome", "Failure"}
    kinds = [kind for kind in messages.Answer.__subclasses__() if kind.__name__ not in handshake]
    assert {name: row[0] for name, row in rows.items()} == {kind.__name__: entries(kind) for kind in kinds}
    for kind in (messages.Greeting, messages.Challenge, messages.Proof, messages.Welcome, messages.Failure):
        names = ", ".join(field.name for field in msgspec.structs.fields(kind))
        assert f"`{{{names}}}`" in TEXT


def test_the_limits_are_those_of_the_code() -> None:
    units = {"EiB": 1 << 60, "MiB": 1 << 20, "KiB": 1 << 10}
    for limit, name in table("what").values():
        number, unit = re.match(r"(\d+) ?(\w*)", limit).groups()  # type: ignore[union-attr]  # every row has a number
        assert int(number) * units.get(unit, 1) == getattr(limits, name.strip("`")), limit


@pytest.mark.parametrize("kind", [*get_args(messages.Request), *messages.Answer.__subclasses__()])
def test_unknown_entries_are_refused_in_every_message(kind: type[msgspec.Struct]) -> None:
    samples = {str: "x", int: 1, bytes: b"x", bool: True, float: 1.0, list[str]: [], list[int]: [], dict[str, int]: {}}
    samples[messages.Remote] = {"address": 1, "key": b"x"}
    message = {field.name: samples[field.type] for field in msgspec.structs.fields(kind) if field.required} | (
        {"type": kind.__name__} if issubclass(kind, messages.Message) else {}
    )
    assert isinstance(messages.decode(messages.encode(message), kind), kind)
    with pytest.raises(ProtocolError, match="unknown field"):
        messages.decode(messages.encode({**message, "surprise": 1}), kind)
