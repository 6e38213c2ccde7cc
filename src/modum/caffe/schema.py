"""Reads the text of a `.proto` file into a descriptor, as much of the language as `caffe.proto` uses.

That is proto2 with messages, enums inside and outside of them, the labels, scalar types, defaults and `packed`.
Reading the text when it is needed keeps one source of truth, and asks for no protoc whose generated code would refuse
an older or newer runtime: a descriptor is data, and every protobuf runtime since 3.20 takes it.
"""

import ast
import re
from collections.abc import Iterable

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

__all__ = ["parse_schema"]

_TOKEN = re.compile(r'"[^"]*"|[-+.\w]+|[{}\[\]=;,]')
_SCALARS = ("double", "float", "int32", "int64", "uint32", "uint64", "bool", "string", "bytes")


def parse_schema(text: str, name: str) -> FileDescriptorProto:
    """Parse a `.proto` file into its descriptor, with types resolved, as protoc does.

    Args:
        text: its content.
        name: of the file.

    Returns:
        The descriptor.

    Raises:
        SyntaxError: the text has something outside of the subset; the message names the word.
    """
    return _Parser(text, name).file()


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._tokens = _TOKEN.findall(re.sub(r"//[^\n]*", "", text))
        self._next = 0
        self._file = FileDescriptorProto(name=name)

    def file(self) -> FileDescriptorProto:
        while self._next < len(self._tokens):
            match self._take("syntax", "package", "message", "enum"):
                case "syntax":
                    self._take("=")
                    self._take('"proto2"')
                    self._take(";")
                case "package":
                    self._file.package = self._word()
                    self._take(";")
                case "message":
                    self._message(self._file.message_type.add())
                case _:
                    self._enum(self._file.enum_type.add())
        enums = [f".{self._file.package}.{enum.name}" for enum in self._file.enum_type]
        messages = [f".{self._file.package}.{message.name}" for message in self._file.message_type]
        for message in self._file.message_type:
            _resolve(message, f".{self._file.package}", enums, messages)
        return self._file

    def _message(self, message: DescriptorProto) -> None:
        message.name = self._word()
        self._take("{")
        while (word := self._take("optional", "required", "repeated", "enum", "}")) != "}":
            if word == "enum":
                self._enum(message.enum_type.add())
            else:
                self._field(message.field.add(), word)

    def _field(self, field: FieldDescriptorProto, label: str) -> None:
        field.label = FieldDescriptorProto.Label.Value(f"LABEL_{label.upper()}")
        kind = self._word()
        if kind in _SCALARS:
            field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
        else:
            field.type_name = kind
        field.name = self._word()
        self._take("=")
        field.number = int(self._word())
        if self._take("[", ";") == ";":
            return
        option = self._take("default", "packed")
        self._take("=")
        value = self._word()
        if option == "packed":
            field.options.packed = value == "true"
        else:
            field.default_value = ast.literal_eval(value) if value.startswith('"') else value
        self._take("]")
        self._take(";")

    def _enum(self, enum: EnumDescriptorProto) -> None:
        enum.name = self._word()
        self._take("{")
        while (name := self._word()) != "}":
            self._take("=")
            enum.value.add(name=name, number=int(self._word()))
            self._take(";")

    def _word(self) -> str:
        if self._next == len(self._tokens):
            raise SyntaxError(f"{self._file.name} ends too early")
        self._next += 1
        return str(self._tokens[self._next - 1])

    def _take(self, *expected: str) -> str:
        word = self._word()
        if word not in expected:
            raise SyntaxError(f"{self._file.name}: {word!r} instead of {' or '.join(expected)}")
        return word


def _resolve(message: DescriptorProto, package: str, enums: Iterable[str], messages: Iterable[str]) -> None:
    """Replace the names of types in `message` by full ones; an enum inside of the message hides one outside."""
    inner = [f"{package}.{message.name}.{enum.name}" for enum in message.enum_type]
    for field in message.field:
        if not field.type_name:
            continue
        nested, outer = f"{package}.{message.name}.{field.type_name}", f"{package}.{field.type_name}"
        if nested in inner or outer in enums:
            field.type = FieldDescriptorProto.TYPE_ENUM
        elif outer in messages:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
        else:
            raise SyntaxError(f"{message.name}.{field.name} has the unknown type {field.type_name}")
        field.type_name = nested if nested in inner else outer
