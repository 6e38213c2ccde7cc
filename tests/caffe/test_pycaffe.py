"""What scripts for pycaffe call, beside nets and solvers themselves."""

from pathlib import Path

import numpy as np
import pytest

import modum.caffe as caffe
from tests.caffe.nets import CLASSIFIER

DEPLOY = """
force_backward: true
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1 } }
"""


def test_a_solver_of_a_type_is_of_that_type_whatever_its_file_says(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(CLASSIFIER)
    file = tmp_path / "solver.prototxt"
    file.write_text(f'net: "{net}" type: "Adam" lr_policy: "fixed" base_lr: 0.1')
    for make, kind in (
        (caffe.get_solver, "Adam"),
        (caffe.SGDSolver, "SGD"),
        (caffe.NesterovSolver, "Nesterov"),
        (caffe.AdaGradSolver, "AdaGrad"),
        (caffe.RMSPropSolver, "RMSProp"),
        (caffe.AdaDeltaSolver, "AdaDelta"),
        (caffe.AdamSolver, "Adam"),
    ):
        with make(str(file)) as solver:
            solver.step(1)
            assert (solver.param.type, solver.iter) == (kind, 1)


def test_a_seed_gives_the_same_weights_again(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(CLASSIFIER)
    weights = []
    for seed in (1, 1, 2):
        caffe.set_random_seed(seed)
        weights.append(caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN).params["conv"][0].data.copy())
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


def test_layers_tell_their_types_and_show_their_blobs() -> None:
    net = caffe.Net(caffe.read_net("net.prototxt", text=DEPLOY), caffe.TEST)
    assert [layer.type for layer in net.layers] == ["Input", "InnerProduct"]
    net.layers[1].blobs[0].data[...] = 2
    assert (net.params["ip"][0].data == 2).all()
    assert net.layer_dict["ip"].blobs[1].shape == (1,)
    assert repr(net.layer_dict["ip"]) == "<InnerProduct layer 'ip'>"


def test_arrays_of_any_length_pass_a_net_batch_by_batch() -> None:
    net = caffe.Net(caffe.read_net("net.prototxt", text=DEPLOY), caffe.TEST)
    net.params["ip"][0].data[...] = [[1, 2, 3]]
    rows = np.random.default_rng(0).random((5, 3), np.float32)
    np.testing.assert_allclose(net.forward_all(data=rows)["ip"], rows @ np.array([[1], [2], [3]]), rtol=1e-6)
    assert net.forward_all(["data"], data=rows)["data"].shape == (5, 3)
    gradients = np.arange(5, dtype=np.float32)[:, None]
    outputs, diffs = net.forward_backward_all(data=rows, ip=gradients)
    np.testing.assert_allclose(outputs["ip"], rows @ np.array([[1], [2], [3]]), rtol=1e-6)
    np.testing.assert_allclose(diffs["data"], gradients * [1, 2, 3])
    assert net.params["ip"][0].diff.any()
    net.clear_param_diffs()
    assert not net.params["ip"][0].diff.any()
    with pytest.raises(ValueError, match="as many rows, but they have 3, 5"):
        net.forward_all(data=rows, other=rows[:3])
