"""Errors in Caffe's files and nets, with their places in the file."""

from typing import TYPE_CHECKING, Self

from modum.errors import ModumError

if TYPE_CHECKING:
    from modum.caffe.proto import Message

__all__ = ["CaffeError", "MissingFileError", "ModelError", "where"]


class CaffeError(ModumError):
    """Base class of the Caffe front end's errors; itself raised for an unusable file of weights, state or means."""


class MissingFileError(CaffeError, FileNotFoundError):
    """A file that a command, a net or a solver names is missing."""


class ModelError(CaffeError):
    """A net or a solver is not one that Caffe would accept.

    The message starts with the place, as far as it is known: `train_val.prototxt:12: layer "conv1": ...`.
    """

    @classmethod
    def at(cls, message: "Message", problem: str, field: str = "", index: int = 0) -> Self:
        """Return the error for this `problem` of `message`, or of its `index`-th `field`, with its place."""
        place = where(message, field, index)
        layer = f'layer "{message.name}": ' if message.DESCRIPTOR.name in ("LayerParameter", "V1LayerParameter") else ""
        return cls(f"{place}: {layer}{problem}" if place else f"{layer}{problem}")


def where(message: "Message", field: str = "", index: int = 0) -> str:
    """Return where `message` was read from, such as `train_val.prototxt:123`; empty if that is not known.

    `message` is a net, a solver or a layer (copies know it too). `field` is the path of a field in it, such as
    `"pooling_param.stride"`, and `index` says which of several; a field that is not in the file has the place of the
    message.
    """
    if "modum_source" not in message.DESCRIPTOR.fields_by_name or not message.HasField("modum_source"):
        return ""
    source = message.modum_source
    lines = [line for path, line in zip(source.path, source.path_line, strict=True) if path == field]
    return f"{source.file}:{lines[index] if index < len(lines) else source.line}"
