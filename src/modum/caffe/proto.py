"""Caffe's messages as Python classes, made on import from the text of `caffe.proto` beside this file.

They are the classes that protoc would generate, under the same names: `NetParameter`, `LayerParameter` and so on, the
values of their enums on the class (`LossParameter.VALID`), those of the enum `Phase` here (`TRAIN`, `TEST`). They live
in a descriptor pool of their own, so that pycaffe or another schema of package caffe can be in the same process.
`proto.pyi` says for type checkers which classes there are.
"""

import sys
from importlib.resources import files

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

from modum.caffe.schema import parse_schema

_schema = parse_schema(files("modum.caffe").joinpath("caffe.proto").read_text(encoding="utf-8"), "caffe.proto")
_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(_schema.SerializeToString())

if hasattr(message_factory, "GetMessageClass"):
    _make_class = message_factory.GetMessageClass
else:  # protobuf before 4.22
    _make_class = message_factory.MessageFactory(_pool).GetPrototype

Phase = EnumTypeWrapper(_pool.FindEnumTypeByName("caffe.Phase"))
TRAIN = Phase.Value("TRAIN")
TEST = Phase.Value("TEST")
_classes = {
    message.name: _make_class(_pool.FindMessageTypeByName(f"caffe.{message.name}")) for message in _schema.message_type
}
globals().update(_classes)

caffe_pb2 = sys.modules[__name__]
"""So that `from modum.caffe.proto import caffe_pb2` is what it is in pycaffe."""

__all__ = ["TEST", "TRAIN", "Message", "Phase", "caffe_pb2", *_classes]
