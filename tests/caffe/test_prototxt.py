"""Nets and solvers in text: what is read, what is left out with a warning, and where errors are."""

import logging
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from modum.caffe.errors import CaffeError, MissingFileError, ModelError
from modum.caffe.outline import Entry, outline
from modum.caffe.proto import ConvolutionParameter, NetParameter, PoolingParameter, SolverParameter
from modum.caffe.prototxt import extras, read_net, read_solver, where, without_source, write_text
from tests.caffe.shared import shared

NET = """\
# A small net.
name: "small"
layer {
  name: "data"  type: "Input"  top: "data"
  input_param { shape: { dim: [1, 3] dim: 8 dim: 8 } }
}
layer <
  name: 'conv1'; type: "Convo" "lution";
  bottom: "data", top: "conv1"
  param { lr_mult: 1 }
  param { lr_mult: 2 }
  convolution_param {
    num_output: 4 # so many
    kernel_size: 3
    kernel_size: 5
    weight_filler { type: "gaussian" std: 1e-2f }
    engine: CAFFE
  }
>
"""


def read(text: str, path: str = "net.prototxt") -> NetParameter:
    return read_net(path, text=text)


@pytest.mark.parametrize(
    "content",
    [
        '\ufeffname: "net"\r\n# \uacf5\ubd80\r\nlayer { type: "TanH" }\r\n'.encode(),
        'name: "net"\r# \u6ce8\u91ca\rlayer { type: "TanH" }'.encode("gbk"),
    ],
)
def test_files_of_other_systems_and_comments_in_other_encodings_are_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_bytes(content)
    net = read_net(tmp_path / "net.prototxt")
    assert (net.name, net.layer[0].type) == ("net", "TanH")
    assert where(net.layer[0]) == f"{tmp_path / 'net.prototxt'}:3"


def test_a_net_is_read_with_all_that_the_text_format_allows() -> None:
    net = read(NET)
    data, conv = net.layer
    assert (net.name, data.type, conv.type) == ("small", "Input", "Convolution")
    assert list(data.input_param.shape[0].dim) == [1, 3, 8, 8]
    assert [spec.lr_mult for spec in conv.param] == [1, 2]
    assert list(conv.convolution_param.kernel_size) == [3, 5]
    assert conv.convolution_param.weight_filler.std == pytest.approx(0.01)
    assert conv.convolution_param.engine == ConvolutionParameter.CAFFE


def test_messages_know_where_they_and_their_fields_were() -> None:
    net = read(NET)
    data, conv = net.layer
    assert where(net) == "net.prototxt:1"
    assert where(net, "name") == "net.prototxt:2"
    assert where(data) == "net.prototxt:3"
    assert where(conv) == "net.prototxt:7"
    assert where(conv, "bottom") == "net.prototxt:9"
    assert where(conv, "convolution_param.kernel_size") == "net.prototxt:14"
    assert where(conv, "convolution_param.kernel_size", 1) == "net.prototxt:15"
    assert where(conv, "convolution_param.weight_filler.std") == "net.prototxt:16"
    assert where(conv, "propagate_down") == "net.prototxt:7"
    copy = NetParameter()
    copy.CopyFrom(net)
    assert where(copy.layer[1]) == "net.prototxt:7"
    assert where(conv.convolution_param) == where(NetParameter()) == ""


def test_an_error_at_a_message_names_file_line_and_layer() -> None:
    net = read(NET)
    assert str(ModelError.at(net.layer[1], "is bad")) == 'net.prototxt:7: layer "conv1": is bad'
    assert str(ModelError.at(net.layer[1], "is bad", "param", 1)) == 'net.prototxt:11: layer "conv1": is bad'
    assert str(ModelError.at(net, "is bad")) == "net.prototxt:1: is bad"
    assert str(ModelError.at(without_source(net.layer[1]), "is bad")) == 'layer "conv1": is bad'


def test_what_is_written_reads_the_same_and_has_nothing_of_modum() -> None:
    net = read(NET)
    text = write_text(net)
    assert "modum" not in text
    assert without_source(read(text)) == without_source(net)
    plain = NetParameter()
    text_format.Parse(text, plain)
    assert plain == without_source(net)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "a"\nlayer {\n name: "x"\n', r'n:2: the brace of "layer" that opens here is never closed'),
        ("layer {}\n}\n", r'n:2: "}" closes nothing'),
        ("layer { >\n}\n", r'n:1: ">" closes nothing'),
        ('name: "a\n', r'n:1: a string has no end: "a'),
        ('name "a"\n', r'n:1: ":" or "{" is missing after "name"'),
        ("name:\n", r'n:1: the value of "name" is missing'),
        ("input_dim: [1 2]", r'n:1: "," or "]" is missing in the list of "input_dim"'),
        ('layer {\n: "x" }', r"n:2: the name of a field is missing before :"),
        (
            'layer {\n name: "c"\n pooling_param {\n  pool: MEAN\n }\n}',
            r'n:4: layer "c": "pool" of PoolingParameter is MEAN instead of one of MAX, AVE, STOCHASTIC',
        ),
        (
            'layer {\n name: "c"\n convolution_param {\n  num_output: "four"\n }\n}',
            r'n:4: layer "c": .*[Ii]nteger.*four',
        ),
        ('layer {\n name: "c"\n top: 7 }', r'n:3: layer "c": .*string'),
        ('layer {\n name: "c"\n type: "ReLU"\n type: "TanH" }', r'n:4: layer "c": .*multiple "type"'),
        ("force_backward: 2", r"n:1: .*2"),
        ("name { }", r"n:1: .*:"),
        (
            'layer {\n name: "c"\n botom: "x" }',
            r'n:3: layer "c": LayerParameter has no field "botom": is it "bottom"\?',
        ),
        (
            'layer {\n name: "c"\n relu_param {\n}\nlayer {\n}\nlayer { } }',
            r'n:5: layer "c": "layer" begins inside of another: a "}" is missing before it',
        ),
        (
            'layer {\n name: "c"\n clip_param { min: 1 } }',
            r'n:3: layer "c": "clip_param.max" is missing',
        ),
    ],
)
def test_a_mistake_is_one_error_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"^{message}"):
        read(text, "n")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none.prototxt: cannot be read: No such file or directory"):
        read_net(tmp_path / "none.prototxt")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        read_net(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x0a\x00\xff")
    with pytest.raises(ModelError, match="binary: is not text: invalid start byte at byte 2"):
        read_solver(tmp_path / "binary")


def test_fields_of_other_editions_are_left_out_with_one_warning_each(caplog: pytest.LogCaptureFixture) -> None:
    text = """\
name: "n"
default_forward_type: FLOAT16
layer {
  name: "a"
  forward_type: FLOAT
  data_param { backend: LMDB cache: true threads: 4 }
}
layer {
  name: "b"
  engine: "MKLDNN"
  forward_type: FLOAT
  pooling_param { pool: AVE engine: MKL2017 }
  unheard_of { of: { it: [1, 2] } }
}
"""
    with caplog.at_level(logging.WARNING, "modum.caffe"):
        net = read(text, "vendor.prototxt")
        read(text, "vendor.prototxt")
    left = "is not BVLC Caffe's and is left out"
    assert caplog.messages == [
        f'vendor.prototxt:2: "default_forward_type" of NetParameter {left}',
        f'vendor.prototxt:5: "forward_type" of LayerParameter {left} (and in 1 other place)',
        f'vendor.prototxt:6: "cache" of DataParameter {left}',
        f'vendor.prototxt:6: "threads" of DataParameter {left}',
        f'vendor.prototxt:10: "engine" of LayerParameter {left}',
        f'vendor.prototxt:12: "engine" of PoolingParameter {left}',
        f'vendor.prototxt:13: "unheard_of" of LayerParameter {left}',
    ]
    pooling = net.layer[1].pooling_param
    assert pooling.pool == PoolingParameter.AVE
    assert not pooling.HasField("engine")
    assert where(net.layer[1]) == "vendor.prototxt:8"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("batch_norm_param { scale_bias: true }", '"scale_bias" of BatchNormParameter adds a learned scale and bias'),
        ("pooling_param {\n ceil_mode: false }", '"ceil_mode" of PoolingParameter rounds'),
        ("transform_param { resize_param { prob: 1 } }", '"resize_param" of TransformationParameter changes'),
    ],
)
def test_fields_of_other_editions_that_change_the_arithmetic_are_errors(fields: str, problem: str) -> None:
    line = 2 + fields.count("\n")
    with pytest.raises(ModelError, match=rf'^n:{line}: layer "x": {problem}.*, which BVLC Caffe does not have'):
        read(f'layer {{ name: "x"\n{fields} }}', "n")


def test_such_fields_are_left_out_where_they_do_nothing() -> None:
    net = read('layer { name: "x" batch_norm_param { scale_bias: false eps: 1 } pooling_param { ceil_mode: true } }')
    assert net.layer[0].batch_norm_param.eps == 1


def test_a_solver_has_the_extras_of_modum() -> None:
    solver = read_solver("s", text='net: "n"\nbase_lr: 0.1\nmoving_rate: 0.2\nupdate_interval: 5\n')
    assert extras(solver) == {"moving_rate": 0.2, "update_interval": 5}
    assert extras(read_solver("s", text='net: "n"')) == {}
    assert where(solver, "update_interval") == "s:4"
    with pytest.raises(ModelError, match=r"^s:1: "):
        read_solver("s", text="update_interval: 0.5")


def test_a_solver_that_scales_rates_by_layer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^s:2: .*local_lr_auto.* scales the learning rate of each layer"):
        read_solver("s", text="base_lr: 1\nlocal_lr_auto: true\n")


def test_nets_inside_of_solvers_know_their_lines() -> None:
    text = 'type: "Adam"\nnet_param {\n  layer {\n name: "a" } }\ntest_net_param { layer { name: "b" } }\n'
    solver = read_solver("s", text=text)
    assert where(solver.net_param.layer[0]) == "s:3"
    assert where(solver.test_net_param[0].layer[0]) == "s:5"
    assert "modum" not in write_text(solver)


NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
SCALARS = st.integers().map(str) | st.from_regex(r'"[^"\\\n]{0,8}"', fullmatch=True) | st.sampled_from(["true", "AVE"])


@given(
    st.recursive(
        st.lists(st.tuples(NAMES, SCALARS), max_size=3),
        lambda inner: st.lists(st.tuples(NAMES, SCALARS | inner), max_size=3),
        max_leaves=8,
    )
)
def test_the_outline_has_every_field_with_its_line(tree: list[tuple[str, object]]) -> None:
    lines: list[str] = []
    expected: list[tuple[str, int]] = []

    def write(fields: object) -> None:
        assert isinstance(fields, list)
        for name, value in fields:
            expected.append((name, len(lines) + 1))
            lines.append(f"{name} {{" if isinstance(value, list) else f"{name}: {value} # {{")
            if isinstance(value, list):
                write(value)
                lines.append("}")

    def flatten(entries: list[Entry]) -> list[tuple[str, int]]:
        return [pair for entry in entries for pair in [(entry.name, entry.line), *flatten(entry.children or [])]]

    write(tree)
    assert flatten(outline("\n".join(lines))) == expected


@given(st.text(alphabet='{}<>[]:,;"#\n ab1.', max_size=40))
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    try:
        read(text, "t")
    except CaffeError as error:
        assert str(error).startswith("t:")  # noqa: PT017 -- most texts are refused, and a few are nets


def test_every_file_of_the_zoo_is_read_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for path in shared("caffe-zoo/**/*.prototxt"):
        if "solver" in path.name:
            solver = read_solver(path)
            assert solver.HasField("base_lr")
            assert solver.HasField("net") or solver.HasField("net_param") or solver.HasField("train_net")
        else:
            net = read_net(path)
            assert where(net.layer[-1], "name").startswith(f"{path}:")
            expected = NetParameter()
            text_format.Parse(path.read_text(), expected)
            layers = [layer for layer in without_source(net).layer if layer.type != "Input"]
            assert layers == [layer for layer in expected.layer if layer.type != "Input"]
    assert caplog.messages == []


def test_solvers_of_the_zoo_have_their_settings() -> None:
    (path,) = shared("caffe-zoo/intel/models/default_resnet_50/solver.prototxt")
    solver = read_solver(path)
    assert (solver.lr_policy, solver.max_iter, solver.solver_mode) == ("step", 600000, SolverParameter.CPU)
