"""Read and write nets and solvers in protobuf's text format.

Reading takes three steps: the outline of the text gives the line of every field; fields of other editions of Caffe are
removed, with a warning each; protobuf reads the rest. Layers, nets and solvers keep their places in the file (`where`).
"""

import difflib
import logging
import re
from collections import Counter
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import TypeVar, cast

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor

from modum.caffe.errors import MissingFileError, ModelError, where
from modum.caffe.outline import Entry, OutlineError, outline
from modum.caffe.proto import Message, NetParameter, SolverParameter
from modum.caffe.upgrade import upgrade_net, upgrade_solver
from modum.caffe.vendors import ARITHMETIC, ENGINES, HARMLESS

__all__ = ["extras", "read_net", "read_solver", "where", "without_source", "write_text"]

_log = logging.getLogger(__name__)
_MessageT = TypeVar("_MessageT", bound=Message)
_EXTRAS = ("moving_rate", "update_interval")
_MISSPELT = 0.85  # difflib's ratio from which a name counts as a misspelling of another


def read_net(path: str | PathLike[str], *, text: str | None = None) -> NetParameter:
    """Read a net, upgrading old definitions as Caffe does.

    Args:
        path: path of the file.
        text: its content, if already read.

    Returns:
        The net, with all of its layers in `layer`.

    Raises:
        ModelError: Caffe would not accept the file, or it relies on an extension of Caffe that changes the arithmetic;
            the message names file and line.
    """
    net = parse(NetParameter(), path, text)
    upgrade_net(net)
    return net


def read_solver(path: str | PathLike[str], *, text: str | None = None) -> SolverParameter:
    """Read a solver and the nets inside it, upgraded. Modum's own fields are kept: see `extras`.

    Args:
        path: path of the file.
        text: its content, if already read.

    Returns:
        The solver.

    Raises:
        ModelError: as `read_net` does.
    """
    solver = parse(SolverParameter(), path, text)
    upgrade_solver(solver, fspath(path))
    return solver


def extras(solver: SolverParameter) -> dict[str, float | int]:
    """Return the solver file's fields that only Modum understands.

    `moving_rate` (a float) is the rate of elastic averaging, `update_interval` the iterations between two exchanges.
    """
    return {name: getattr(solver, name) for name in _EXTRAS if solver.HasField(name)}


def parse(message: _MessageT, path: str | PathLike[str], text: str | None = None) -> _MessageT:
    """Fill the empty `message` from the file `path`, or from `text`, without upgrading, and return it."""
    file = fspath(path)
    if text is None:
        try:
            text = _decode(Path(path).read_bytes())
        except FileNotFoundError as error:
            raise MissingFileError(f"{file}: cannot be read: {error.strerror}") from None
        except OSError as error:
            raise ModelError(f"{file}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ModelError(f"{file}: is not text: {error.reason} at byte {error.start}") from None
    try:
        entries = outline(text)
    except OutlineError as error:
        raise ModelError(f"{file}:{error.line}: {error}") from None
    foreign = _Foreign(file)
    foreign.visit(entries, cast(Descriptor, message.DESCRIPTOR), "")
    foreign.warn()
    for entry in foreign.found:
        blank = "".join(character if character == "\n" else " " for character in text[entry.start : entry.end])
        text = text[: entry.start] + blank + text[entry.end :]
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        line = error.GetLine() or 1
        problem = str(error).removeprefix(f"{error.GetLine()}:{error.GetColumn()} : ").replace('"caffe.', '"')
        raise ModelError(f"{file}:{line}: {_layer_at(entries, line)}{problem}") from None
    _locate(message, entries, file, 1)
    for missing in message.FindInitializationErrors():
        layer = re.fullmatch(r"layer\[(\d+)\]\.(.+)", missing)
        owner, path = (message.layer[int(layer[1])], layer[2]) if layer else (message, missing)
        raise ModelError.at(owner, f'"{path}" is missing', path.rpartition(".")[0])
    return message


def _decode(content: bytes) -> str:
    """Return the text of a file, also from Windows, or with comments in any encoding."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:
            raise
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_text(message: Message) -> str:
    """Return `message` in the text format, as Caffe reads it."""
    return text_format.MessageToString(without_source(message))


def without_source(message: _MessageT) -> _MessageT:
    """Return a copy of `message` without Modum's notes about its file."""
    copy = type(message)()
    copy.CopyFrom(message)
    for field, value in copy.ListFields():
        if field.name == "modum_source":
            copy.ClearField("modum_source")
        elif field.name in ("layer", "layers", "test_net_param") and not isinstance(value, Message):
            stripped = [without_source(element) for element in value]
            copy.ClearField(field.name)
            getattr(copy, field.name).extend(stripped)
        elif field.name in ("net_param", "train_net_param"):
            value.CopyFrom(without_source(value))
    return copy


class _Foreign:
    """Finds fields in an outline that BVLC Caffe does not have; raises `ModelError` for those that matter."""

    def __init__(self, file: str) -> None:
        self.found: list[Entry] = []
        self._file = file
        self._names: dict[tuple[str, str], list[int]] = {}  # (message, field) -> lines

    def visit(self, entries: list[Entry], message: Descriptor, layer: str) -> None:
        """Check the fields of a `message`, in the layer that `layer` names."""
        for entry in entries:
            field = message.fields_by_name.get(entry.name)
            if field is None or entry.name == "modum_source":
                self._unknown(entry, message, layer)
            elif field.enum_type is not None and entry.children is None:
                self._enum(entry, field.enum_type, message, layer)
            elif field.message_type is not None and entry.children is not None:
                self.visit(entry.children, field.message_type, _layer_name(entry) or layer)

    def warn(self) -> None:
        """Warn about each field found, once per process."""
        for (message, name), lines in self._names.items():
            more = f" (and in {len(lines) - 1} other place{'s'[: len(lines) - 2]})" if len(lines) > 1 else ""
            _warn_once(f'{self._file}:{lines[0]}: "{name}" of {message} is not BVLC Caffe\'s and is left out{more}')

    def _unknown(self, entry: Entry, message: Descriptor, layer: str) -> None:
        what, nothing = ARITHMETIC.get(message.name, {}).get(entry.name, ("", ()))
        if what and " ".join(entry.value) not in nothing:
            raise self._error(entry, layer, f'"{entry.name}" of {message.name} {what}, which BVLC Caffe does not have')
        if not what and entry.name not in HARMLESS:
            fields = list(message.fields_by_name)
            if entry.name in ("layer", "layers"):
                raise self._error(entry, layer, f'"{entry.name}" begins inside of another: a "}}" is missing before it')
            for near in difflib.get_close_matches(entry.name, fields, 1, _MISSPELT):
                raise self._error(entry, layer, f'{message.name} has no field "{entry.name}": is it "{near}"?')
        self._note(entry, message)

    def _enum(self, entry: Entry, enum: EnumDescriptor, message: Descriptor, layer: str) -> None:
        for value in entry.value:
            if value in enum.values_by_name or (value.isdigit() and int(value) in enum.values_by_number):
                continue
            if entry.name != "engine" or value not in ENGINES:
                known = ", ".join(enum.values_by_name)
                raise self._error(
                    entry, layer, f'"{entry.name}" of {message.name} is {value} instead of one of {known}'
                )
            self._note(entry, message)

    def _note(self, entry: Entry, message: Descriptor) -> None:
        self.found.append(entry)
        self._names.setdefault((message.name, entry.name), []).append(entry.line)

    def _error(self, entry: Entry, layer: str, problem: str) -> ModelError:
        return ModelError(f"{self._file}:{entry.line}: {layer}{problem}")


@cache
def _warn_once(warning: str) -> None:
    _log.warning("%s", warning)


def _layer_name(entry: Entry) -> str:
    """Return `layer "conv1": ` if `entry` is a layer with a name."""
    if entry.name not in ("layer", "layers") or entry.children is None:
        return ""
    names = [" ".join(child.value) for child in entry.children if child.name == "name"]
    return f'layer "{names[0][1:-1]}": ' if names else ""


def _layer_at(entries: list[Entry], line: int) -> str:
    """Return the layer that `line` is in."""
    inside = [entry for entry in entries if entry.line <= line and entry.children is not None]
    if not inside:
        return ""
    assert inside[-1].children is not None
    return _layer_name(inside[-1]) or _layer_at(inside[-1].children, line)


def _locate(message: Message, entries: list[Entry], file: str, line: int) -> None:
    """Note in `message`, and in each net and layer inside it, the places of it and its fields."""
    source = message.modum_source
    source.file, source.line = file, line

    def visit(inner: Message, entries: list[Entry], prefix: str) -> None:
        seen = Counter[str]()
        for entry in entries:
            if entry.name not in inner.DESCRIPTOR.fields_by_name or entry.name == "modum_source":
                continue
            source.path.append(prefix + entry.name)
            source.path_line.append(entry.line)
            if entry.children is None:
                continue
            value = getattr(inner, entry.name)
            child = value if isinstance(value, Message) else value[seen[entry.name]]
            seen[entry.name] += 1
            if "modum_source" in child.DESCRIPTOR.fields_by_name:
                _locate(child, entry.children, file, entry.line)
            else:
                visit(child, entry.children, f"{prefix}{entry.name}.")

    visit(message, entries, "")
