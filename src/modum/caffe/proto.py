"""Caffe's messages as Python classes, made on import from what protoc made of `caffe.proto` when Modum was built.

They have the names of protoc's own classes: `NetParameter`, `LayerParameter` and so on, the values of their enums on
the class (`LossParameter.VALID`), those of the enum `Phase` here (`TRAIN`, `TEST`). They live in a descriptor pool of
their own, so that pycaffe or another schema of package caffe can be in the same process. `proto.pyi` says for type
checkers which classes there are.
"""

import sys
from importlib.resources import files

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message


def _schema() -> FileDescriptorProto:
    """Return the descriptor of the schema, which the build has put beside it."""
    file = files("modum.caffe").joinpath("caffe.binpb")
    try:
        compiled = FileDescriptorSet.FromString(file.read_bytes())
    except FileNotFoundError:
        raise ImportError(
            f"{file} is missing: it is compiled when Modum is built. HINT: pip install --editable . in the source tree"
            " (or python hatch_build.py there, which needs hatchling and grpcio-tools)"
        ) from None
    (schema,) = compiled.file
    return schema


_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_schema().SerializeToString())

if hasattr(message_factory, "GetMessageClass"):
    _make_class = message_factory.GetMessageClass
else:  # protobuf before 4.22
    _make_class = message_factory.MessageFactory(_pool).GetPrototype

Phase = EnumTypeWrapper(_pool.FindEnumTypeByName("caffe.Phase"))
TRAIN = Phase.Value("TRAIN")
TEST = Phase.Value("TEST")
_classes = {
    name: _make_class(message) for name, message in _pool.FindFileByName("caffe.proto").message_types_by_name.items()
}
globals().update(_classes)

caffe_pb2 = sys.modules[__name__]
"""Makes `from modum.caffe.proto import caffe_pb2` work as in pycaffe."""

__all__ = ["TEST", "TRAIN", "Message", "Phase", "caffe_pb2", *_classes]
