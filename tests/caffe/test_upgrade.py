"""Old nets and solvers become what Caffe makes of them."""

import logging
from pathlib import Path

import pytest

from modum.caffe.errors import ModelError, where
from modum.caffe.proto import NetParameter, V1LayerParameter
from modum.caffe.prototxt import read_net, read_solver, without_source
from modum.caffe.upgrade import upgrade_net


def read(text: str) -> NetParameter:
    return without_source(read_net("n", text=text))


V1 = """
name: "old"
layers { name: "data" type: DATA top: "data" top: "label"
  data_param { source: "db" scale: 0.5 mean_file: "m" crop_size: 24 mirror: true batch_size: 8 backend: LMDB }
  include { phase: TRAIN } }
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
  param: "w" param: "b" blob_share_mode: PERMISSIVE blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 3 kernel_size: 5 } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
layers { name: "ip" type: INNER_PRODUCT bottom: "conv" top: "ip" blobs_lr: 3 inner_product_param { num_output: 2 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" loss_weight: 0.3 exclude { stage: "deploy" } }
"""
V2 = """
name: "old"
layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { scale: 0.5 mean_file: "m" crop_size: 24 mirror: true }
  data_param { source: "db" batch_size: 8 backend: LMDB } include { phase: TRAIN } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { name: "w" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 1 } param { name: "b" lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 3 kernel_size: 5 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" param { lr_mult: 3 }
  inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" loss_weight: 0.3
  exclude { stage: "deploy" } }
"""
V0 = """
name: "old"
layers { layer { name: "data" type: "data" source: "db" scale: 0.5 meanfile: "m" cropsize: 24 mirror: true
  batchsize: 8 rand_skip: 3 } top: "data" top: "label" }
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "padded" }
layers { layer { name: "conv" type: "conv" num_output: 4 biasterm: false kernelsize: 5 stride: 2 group: 2
  weight_filler { type: "gaussian" std: 0.5 } blobs_lr: 1 weight_decay: 1 } bottom: "padded" top: "conv" }
layers { layer { name: "pool" type: "pool" pool: AVE kernelsize: 3 stride: 2 pad: 1 } bottom: "conv" top: "pool" }
layers { layer { name: "norm" type: "lrn" local_size: 3 alpha: 0.5 beta: 0.25 k: 2 } bottom: "pool" top: "norm" }
layers { layer { name: "cat" type: "concat" concat_dim: 0 } bottom: "norm" bottom: "norm" top: "cat" }
layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.2 } bottom: "cat" top: "cat" }
layers { layer { name: "ip" type: "innerproduct" num_output: 2 bias_filler { value: 1 } } bottom: "cat" top: "ip" }
layers { layer { name: "out" type: "hdf5_output" hdf5_output_param { file_name: "f" } } bottom: "ip" }
layers { layer { name: "loss" type: "softmax_loss" } bottom: "ip" bottom: "label" }
"""
V0_AS_V2 = """
name: "old"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 8 rand_skip: 3 }
  transform_param { scale: 0.5 mean_file: "m" crop_size: 24 mirror: true } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 decay_mult: 1 }
  convolution_param { num_output: 4 bias_term: false kernel_size: 5 stride: 2 group: 2 pad: 2
    weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "norm" type: "LRN" bottom: "pool" top: "norm" lrn_param { local_size: 3 alpha: 0.5 beta: 0.25 k: 2 } }
layer { name: "cat" type: "Concat" bottom: "norm" bottom: "norm" top: "cat" concat_param { concat_dim: 0 } }
layer { name: "drop" type: "Dropout" bottom: "cat" top: "cat" dropout_param { dropout_ratio: 0.2 } }
layer { name: "ip" type: "InnerProduct" bottom: "cat" top: "ip"
  inner_product_param { num_output: 2 bias_filler { value: 1 } } }
layer { name: "out" type: "HDF5Output" bottom: "ip" hdf5_output_param { file_name: "f" } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }
"""


@pytest.mark.parametrize(("old", "new"), [(V1, V2), (V0, V0_AS_V2), (V2, V2)], ids=["V1", "V0", "today's"])
def test_old_layers_become_todays(old: str, new: str) -> None:
    assert read(old) == read(new)


def test_upgraded_layers_know_their_lines() -> None:
    assert where(read_net("n", text=V1).layer[1]) == "n:6"
    assert where(read_net("n", text=V0).layer[1]) == "n:6"


def test_every_type_of_v1_has_a_name_of_today() -> None:
    names = set()
    for number in V1LayerParameter.LayerType.values():
        net = NetParameter(layers=[V1LayerParameter(type=number)])
        upgrade_net(net)
        names.add(net.layer[0].type)
    assert len(names) == len(V1LayerParameter.LayerType.values()) == 40
    assert {"", "Im2col", "SoftmaxWithLoss", "BNLL", "TanH", "HDF5Data", "SigmoidCrossEntropyLoss"} <= names


def test_v1_weights_keep_their_blobs() -> None:
    net = NetParameter(layers=[V1LayerParameter(name="x", type="RELU", blobs=[{"data": [1, 2], "num": 2}])])
    upgrade_net(net)
    assert list(net.layer[0].blobs[0].data) == [1, 2]


def test_the_data_of_images_and_windows_move_too() -> None:
    for kind, param in (("images", "image_data_param"), ("window_data", "window_data_param")):
        (layer,) = read(f'layers {{ layer {{ name: "d" type: "{kind}" source: "s" cropsize: 9 batchsize: 2 }} }}').layer
        assert (getattr(layer, param).source, getattr(layer, param).batch_size) == ("s", 2)
        assert layer.transform_param.crop_size == 9
    (layer,) = read("layers { type: WINDOW_DATA window_data_param { scale: 2 fg_fraction: 0.5 } }").layer
    assert layer.transform_param.scale == 2
    assert not layer.window_data_param.HasField("scale")
    assert layer.window_data_param.fg_fraction == 0.5


def test_a_setting_that_a_v0_layer_does_not_have_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "modum.caffe"):
        (layer,) = read('layers { layer { name: "r" type: "relu" kernelsize: 3 new_num: 2 } }').layer
    assert layer.type == "ReLU"
    assert caplog.messages == [
        f'n:1: layer "r": "{field}" means nothing to a layer "relu"; it is left out'
        for field in ("kernelsize", "new_num")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('layer { name: "a" }\nlayers { name: "b" }', r'n:1: has both "layers" and "layer"'),
        ('\nlayers { layer { name: "a" type: "convolve" } }', r'n:2: layer "a": has the type "convolve"'),
        (
            'layers { layer { name: "a" type: "relu" } }\nlayers { name: "b" }',
            r'n:2: layer "b": is a V1 layer in a net of V0 layers',
        ),
        (
            'layers { layer { type: "padding" } bottom: "x" top: "p" }\nlayers { layer { type: "relu" } bottom: "p" }',
            r"n:2: .*padded bottom; only conv and pool",
        ),
        (
            '\ninput: "x" input: "y"\ninput_dim: [1, 2, 3, 4]',
            r"n:2: 2 of input need as many shapes; there are 4 of input_dim",
        ),
        ('input: "x"\ninput_dim: [1, 2, 3, 4, 5]', r"n:1: 1 of input need .* 5 of input_dim"),
        ('input: "x" input_shape {} input_shape {}', r"n:1: 1 of input need .* 2 of input_shape"),
    ],
)
def test_what_cannot_be_upgraded_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"^{message}"):
        read(text)


def test_inputs_become_a_layer_in_front() -> None:
    for shapes in (
        "input_dim: [1, 3, 9, 8, 1, 1, 2, 2]",
        "input_shape { dim: [1, 3, 9, 8] } input_shape { dim: [1, 1, 2, 2] }",
    ):
        net = read_net("n", text=f'layer {{ name: "a" type: "ReLU" }}\ninput: "x"\ninput: "y"\n{shapes}')
        first, second = net.layer
        assert (first.name, first.type, list(first.top), second.name) == ("input", "Input", ["x", "y"], "a")
        assert [list(shape.dim) for shape in first.input_param.shape] == [[1, 3, 9, 8], [1, 1, 2, 2]]
        assert where(first) == "n:2"
        assert where(second) == "n:1"
        assert [*net.input, *net.input_dim, *net.input_shape] == []


def test_an_input_without_a_shape_makes_no_layer() -> None:
    net = read('input: "x" layer { name: "a" }')
    assert [layer.name for layer in net.layer] == ["a"]
    assert not net.input


def test_statistics_of_batch_normalization_do_not_learn() -> None:
    text = 'layer {{ type: "BatchNorm" {0} }} layer {{ type: "Scale" {0} }}'
    three = 'param { name: "m" lr_mult: 1 } param { decay_mult: 5 } param { }'
    norm, scale = read(text.format(three)).layer
    assert [(spec.name, spec.lr_mult, spec.decay_mult) for spec in norm.param] == [("m", 0, 0), ("", 0, 0), ("", 0, 0)]
    assert scale.param[0].lr_mult == 1
    norm, _ = read(text.format("param { lr_mult: 1 }")).layer
    assert norm.param[0].lr_mult == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SGD", "SGD"),
        ("NESTEROV", "Nesterov"),
        ("ADAGRAD", "AdaGrad"),
        ("RMSPROP", "RMSProp"),
        ("ADADELTA", "AdaDelta"),
        ("ADAM", "Adam"),
    ],
)
def test_an_old_type_of_solver_becomes_todays(old: str, new: str) -> None:
    solver = read_solver("s", text=f"solver_type: {old}")
    assert solver.type == new
    assert not solver.HasField("solver_type")


def test_two_types_of_solver_are_an_error() -> None:
    with pytest.raises(ModelError, match=r'^s:2: has both "solver_type" and "type"'):
        read_solver("s", text='type: "SGD"\nsolver_type: SGD')


def test_nets_inside_of_a_solver_are_upgraded() -> None:
    old = "layers { type: RELU }"
    solver = read_solver("s", text=f"net_param {{ {old} }} train_net_param {{ {old} }} test_net_param {{ {old} }}")
    for net in (solver.net_param, solver.train_net_param, *solver.test_net_param):
        assert net.layer[0].type == "ReLU"


def test_the_prefix_of_snapshots_is_the_solvers_own_name_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert read_solver("a/s.prototxt", text="").snapshot_prefix == "a/s"
    assert read_solver("a/s.prototxt", text='snapshot_prefix: "b/c"').snapshot_prefix == "b/c"
    directory = read_solver("a/s.prototxt", text=f'snapshot_prefix: "{tmp_path}"')
    assert directory.snapshot_prefix == f"{tmp_path}/s"
