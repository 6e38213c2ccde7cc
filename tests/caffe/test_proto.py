"""The message classes are those that protoc makes of caffe.proto, and understand what the real Caffe wrote."""

import importlib.util
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

import modum.caffe.proto
from modum.caffe.proto import (
    TEST,
    TRAIN,
    BlobProto,
    ConvolutionParameter,
    LayerParameter,
    LossParameter,
    NetParameter,
    Phase,
    SolverParameter,
    V1LayerParameter,
)
from modum.caffe.schema import parse_schema

SCHEMA = files("modum.caffe").joinpath("caffe.proto").read_text(encoding="utf-8")


def normal(file: FileDescriptorProto) -> FileDescriptorProto:
    """`file` without what protoc adds or spells in its own way: JSON names, `1.0` for `1`."""

    def visit(message: DescriptorProto) -> None:
        for field in message.field:
            field.ClearField("json_name")
            if field.type == field.TYPE_FLOAT and field.HasField("default_value"):
                field.default_value = repr(float(field.default_value))

    for message in file.message_type:
        visit(message)
    return file


def test_the_descriptor_is_what_protoc_makes_of_the_text(tmp_path: Path) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools, which has protoc, is not installed")
    (tmp_path / "caffe.proto").write_text(SCHEMA)
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"--descriptor_set_out={tmp_path / 'set'}"]
    subprocess.run([*protoc, "caffe.proto"], check=True)
    (expected,) = FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file
    assert normal(parse_schema(SCHEMA, "caffe.proto")) == normal(expected)


def test_every_message_of_the_text_is_a_class_that_type_checkers_know() -> None:
    stub = files("modum.caffe").joinpath("proto.pyi").read_text(encoding="utf-8")
    messages = [message.name for message in parse_schema(SCHEMA, "caffe.proto").message_type]
    assert len(messages) > 60
    for name in messages:
        assert f"class {name}(Message): ...\n" in stub
        assert getattr(modum.caffe.proto, name).DESCRIPTOR.full_name == f"caffe.{name}"


def test_enums_and_defaults_are_those_of_caffe() -> None:
    assert (TRAIN, TEST, Phase.Name(1)) == (0, 1, "TEST")
    assert LossParameter().normalization == LossParameter.VALID == 1
    assert V1LayerParameter.LayerType.Name(4) == "CONVOLUTION"
    assert SolverParameter().random_seed == -1
    assert SolverParameter().snapshot_format == SolverParameter.BINARYPROTO
    assert ConvolutionParameter().bias_term


def test_the_bytes_are_those_of_caffe() -> None:
    blob = BlobProto(data=[1.0], shape={"dim": [1]})
    net = NetParameter(name="n", layer=[LayerParameter(name="ip", type="InnerProduct", blobs=[blob])])
    written = bytes.fromhex("0a016ea2061f0a026970120c496e6e657250726f647563743a0b2a040000803f3a030a0101")
    assert net.SerializeToString() == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("service X {}", "'service' instead of syntax or package or message or enum"),
        ("message A { optional B b = 1; }", "A.b has the unknown type B"),
        ("message A { optional int32 b = 1", "ends too early"),
    ],
)
def test_what_the_reader_does_not_know_is_an_error(text: str, message: str) -> None:
    with pytest.raises(SyntaxError, match=message):
        parse_schema(text, "x.proto")
