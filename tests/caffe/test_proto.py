"""The message classes are those that protoc makes of caffe.proto, and understand what the real Caffe wrote."""

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

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

SCHEMA = files("modum.caffe").joinpath("caffe.proto").read_text(encoding="utf-8")


def test_the_descriptor_was_compiled_from_the_text_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "caffe.proto").write_text(SCHEMA)
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"--descriptor_set_out={tmp_path / 'set'}"]
    subprocess.run([*protoc, "caffe.proto"], check=True)
    compiled = files("modum.caffe").joinpath("caffe.binpb").read_bytes()
    assert compiled == (tmp_path / "set").read_bytes(), "caffe.proto was changed: python hatch_build.py compiles it"


def test_every_message_of_the_text_is_a_class_that_type_checkers_know() -> None:
    stub = files("modum.caffe").joinpath("proto.pyi").read_text(encoding="utf-8")
    messages = re.findall(r"^message (\w+)", SCHEMA, re.MULTILINE)
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
