"""Nets that others wrote, as their files are, with random data in place of their databases."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modum.caffe import TEST, TRAIN, Net, Solver, read_net, read_solver
from modum.caffe.proto import NetParameter, SolverParameter
from tests.caffe.shared import SHARED, shared

ZOO = SHARED / "caffe-zoo"

PARAMETERS = {
    "bvlc/examples/cifar10/cifar10_full_train_test.prototxt": 89_578,
    "bvlc/examples/cifar10/cifar10_quick_train_test.prototxt": 145_578,
    "bvlc/examples/mnist/lenet_train_test.prototxt": 431_080,
    "bvlc/models/bvlc_alexnet/train_val.prototxt": 60_965_224,
    "bvlc/models/bvlc_reference_caffenet/train_val.prototxt": 60_965_224,
    "bvlc/models/bvlc_googlenet/train_val.prototxt": 13_378_280,  # with the two classifiers on the way
    # 25,557,032 of the usual ResNet-50, the first convolution's 64 biases, statistics and 53 factors
    "intel/models/default_resnet_50/train_val.prototxt": 25_557_032 + 64 + 2 * 26_560 + 53,
    "intel/models/default_googlenet_v2/train_val.prototxt": 16_100_417,
}
"""Numbers in all blobs, statistics of batch normalization too."""

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "bvlc/examples/mnist/lenet_train_test.prototxt": {"conv1": (20, 24, 24), "pool2": (50, 4, 4), "ip2": (10,)},
    "bvlc/examples/cifar10/cifar10_quick_train_test.prototxt": {"pool1": (32, 16, 16), "pool3": (64, 4, 4)},
    "bvlc/models/bvlc_alexnet/train_val.prototxt": {"conv1": (96, 55, 55), "pool5": (256, 6, 6), "fc8": (1000,)},
    "bvlc/models/bvlc_googlenet/train_val.prototxt": {
        "conv1/7x7_s2": (64, 112, 112),
        "pool1/3x3_s2": (64, 56, 56),
        "inception_4e/output": (832, 14, 14),
        "pool5/7x7_s1": (1024, 1, 1),
    },
    "intel/models/default_resnet_50/train_val.prototxt": {
        "conv1": (64, 112, 112),
        "pool1": (64, 56, 56),
        "res3a": (512, 28, 28),
        "res5c": (2048, 7, 7),
    },
}


def with_random_data(net: NetParameter) -> NetParameter:
    """The net with batches of one random picture, of the size that it expects, and label 0."""
    changed = NetParameter()
    changed.CopyFrom(net)
    for layer in changed.layer:
        if layer.type == "Data":
            small = (1, 28, 28) if "mnist" in layer.data_param.source else (3, 32, 32)
            crop = layer.transform_param.crop_size
            layer.type = "DummyData"
            layer.ClearField("data_param")
            layer.ClearField("transform_param")
            dummy = layer.dummy_data_param
            dummy.shape.add().dim.extend((1, *((3, crop, crop) if crop else small)))
            dummy.shape.add().dim.append(1)
            dummy.data_filler.add(type="gaussian")
            dummy.data_filler.add(type="constant")
    return changed


def solver_of(net: NetParameter) -> SolverParameter:
    text = 'base_lr: 1e-4 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0002 random_seed: 1 max_iter: 2'
    param = read_solver("solver.prototxt", text=text)
    param.net_param.CopyFrom(net)
    return param


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_net_trains_with_caffes_shapes_and_its_weights_survive_a_file(name: str, tmp_path: Path) -> None:
    net = with_random_data(read_net(shared(f"caffe-zoo/{name}")[0]))
    with Solver(solver_of(net)) as solver:
        model = solver.net
        assert sum(learnable.tensor.numel() for learnable in model.learnables) == PARAMETERS[name]
        before = solver.parameters.flat.clone()
        solver.step(2)
        assert np.isfinite(model.loss)
        assert model.loss > 0
        assert (solver.parameters.flat != before).any()
        for blob, shape in SHAPES.get(name, {}).items():
            assert tuple(size for size in model.blobs[blob].shape[1:]) == shape, blob
        model.save(tmp_path / "trained.caffemodel")
        tested = Net(net, TEST, tmp_path / "trained.caffemodel")
        for layer, blobs in model.params.items():
            for mine, theirs in zip(blobs, tested.params[layer], strict=True):
                assert np.array_equal(mine.data, theirs.data)
        assert all(np.isfinite(array).all() for array in tested.forward().values())


@pytest.mark.parametrize(
    "name", ["bvlc_alexnet", "bvlc_googlenet", "bvlc_reference_caffenet", "cifar10_full", "cifar10_quick", "lenet"]
)
def test_a_deployed_net_gives_probabilities_and_gradients(name: str) -> None:
    paths = (
        ZOO.glob(f"bvlc/**/{name}/deploy.prototxt") if name.startswith("bvlc") else ZOO.glob(f"bvlc/**/{name}.prototxt")
    )
    path = next(iter(paths), None)
    if path is None:
        pytest.skip("../shared has no caffe-zoo")
    model = Net(path, TEST, seed=0)
    (data,) = model.inputs
    model.blobs[data].reshape(1, *model.blobs[data].shape[1:])
    inputs: dict[str, Any] = {data: np.random.default_rng(0).normal(size=model.blobs[data].shape)}
    prob = model.forward(**inputs)["prob"]
    assert prob.shape[0] == 1
    assert prob.sum() == pytest.approx(1, rel=1e-5)
    model.backward(prob=np.eye(1, prob.shape[1]))
    assert all(np.isfinite(blob.diff).all() for blobs in model.params.values() for blob in blobs)


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_every_net_file_builds_in_both_phases(phase: int) -> None:
    paths = [path for path in shared("caffe-zoo/**/*.prototxt") if "solver" not in path.name]
    for path in paths:
        assert Net(with_random_data(read_net(path)), phase).layers, path


def test_every_solver_file_is_understood() -> None:
    for path in shared("caffe-zoo/**/*solver*.prototxt"):
        solver = read_solver(path)
        assert solver.base_lr > 0, path
        assert solver.type in ("SGD", "AdaDelta", "Adam", "RMSProp"), path
