"""Nets written in Python, as scripts for pycaffe write them."""

import numpy as np
import pytest

import modum.caffe as caffe
from modum.caffe import layers as L  # noqa: N812 - pycaffe's users call it so
from modum.caffe import params as P  # noqa: N812
from modum.caffe.proto import caffe_pb2
from modum.caffe.prototxt import write_text


def spec() -> caffe.NetSpec:
    net = caffe.NetSpec()
    net.data, net.label = L.DummyData(
        shape=[{"dim": [4, 1, 6, 6]}, {"dim": 4}], data_filler=[{"type": "uniform"}, {"type": "constant"}], ntop=2
    )
    net.conv = L.Convolution(
        net.data,
        kernel_size=3,
        num_output=2,
        param=[{"lr_mult": 1}, {"lr_mult": 2, "decay_mult": 0}],
        weight_filler={"type": "xavier"},
    )
    net.relu = L.ReLU(net.conv, in_place=True)
    net.pool = L.Pooling(net.relu, pool=P.Pooling.AVE, kernel_size=2, stride=2)
    net["score"] = L.InnerProduct(net.pool, num_output=3, weight_filler={"type": "gaussian", "std": 0.1})
    net.accuracy = L.Accuracy(net.score, net.label, include={"phase": caffe.TEST})
    net.loss = L.SoftmaxWithLoss(net.score, net.label, loss_weight=2)
    return net


def test_a_net_is_the_one_that_its_text_says() -> None:
    text = """
    layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
      data_filler { type: "uniform" } data_filler { type: "constant" }
      shape { dim: 4 dim: 1 dim: 6 dim: 6 } shape { dim: 4 } } }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 }
      param { lr_mult: 2 decay_mult: 0 }
      convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
    layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
      pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
    layer { name: "score" type: "InnerProduct" bottom: "pool" top: "score"
      inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.1 } } }
    layer { name: "accuracy" type: "Accuracy" bottom: "score" bottom: "label" top: "accuracy"
      include { phase: TEST } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" loss_weight: 2 }
    """
    assert write_text(spec().to_proto()) == write_text(caffe.read_net("net.prototxt", text=text))


def test_a_net_can_be_trained_at_once() -> None:
    param = caffe_pb2.SolverParameter(base_lr=0.1, lr_policy="fixed", random_seed=1)
    param.net_param.CopyFrom(spec().to_proto())
    with caffe.Solver(param) as solver:
        first = float(solver.net.forward()["loss"])
        solver.step(20)
        assert solver.net.forward()["loss"] < first


def test_names_are_made_up_where_nobody_gives_them() -> None:
    data = L.Input(shape={"dim": [1, 2]})
    both = L.Eltwise(L.ReLU(data), L.TanH(data), operation=P.Eltwise.PROD)
    net = caffe.to_proto(both, L.Silence(both, ntop=0))
    assert [(layer.name, list(layer.bottom), list(layer.top)) for layer in net.layer] == [
        ("Input1", [], ["Input1"]),
        ("ReLU1", ["Input1"], ["ReLU1"]),
        ("TanH1", ["Input1"], ["TanH1"]),
        ("Eltwise1", ["ReLU1", "TanH1"], ["Eltwise1"]),
        ("Silence1", ["Eltwise1"], []),
    ]
    assert caffe.Net(both.to_proto(), caffe.TEST).forward(Input1=np.array([[1, -1]]))["Eltwise1"][0, 1] == 0


def test_every_layer_type_has_its_function() -> None:
    for kind in caffe.layer_type_list():
        assert callable(getattr(L, kind))
    with pytest.raises(AttributeError, match="no such layer type"):
        _ = L.Convolutoin
    with pytest.raises(AttributeError, match="there is no PolingParameter"):
        _ = P.Poling


def test_mistakes_are_told_with_the_layer_and_the_setting() -> None:
    net = caffe.NetSpec()
    net.data = L.Input(shape={"dim": [1, 2]})
    with pytest.raises(TypeError, match="ReLU: input 0 is a str and not the top of a layer"):
        L.ReLU("data")
    with pytest.raises(AttributeError, match="the net has no top 'dta'"):
        _ = net.dta
    net.ip = L.InnerProduct(net.data, num_ouput=2)
    with pytest.raises(ValueError, match=r'layer "ip" \(InnerProduct\): num_ouput=2: LayerParameter has no field'):
        net.to_proto()
    del net.ip
    net.ip = L.InnerProduct(net.data, num_output="two")
    with pytest.raises(ValueError, match="num_output='two'"):
        net.to_proto()
