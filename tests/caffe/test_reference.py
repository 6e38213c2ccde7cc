"""Losses of the real Caffe, iteration by iteration, from the same weights and records."""

import json
from pathlib import Path

import numpy as np
import pytest

from modum.caffe import Solver
from modum.caffe.convert import convert_idx
from modum.data import DataError, default_directory, fashion_mnist
from tests.caffe.shared import SHARED, shared

REFERENCE = SHARED / "caffe-reference"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `examples/mnist`: LeNet, and Fashion-MNIST as Caffe's converter writes it."""
    folder = tmp_path_factory.mktemp("lenet")
    here = folder / "examples" / "mnist"
    here.mkdir(parents=True)
    model = shared("caffe-zoo/bvlc/examples/mnist/lenet_train_test.prototxt")[0]
    (here / model.name).write_text(model.read_text())
    try:
        fashion_mnist()
    except DataError as error:
        pytest.skip(f"no source of Fashion-MNIST is within reach: {error}")
    for part, name in (("train", "train"), ("t10k", "test")):
        images, labels = (default_directory() / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        convert_idx(images, labels, here / f"mnist_{name}_lmdb")
    return folder


@pytest.fixture
def _there(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(examples)


def train(solver: Solver, iterations: int) -> list[float]:
    losses = []
    for iteration in range(iterations):
        losses.append(float(solver.forward_backward()))
        solver.apply_update(iteration)
        solver.iter += 1
    return losses


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("name", ["sgd", "multistep", "adadelta", "adam", "rmsprop"])
def test_the_first_losses_of_lenet_are_caffes(name: str) -> None:
    expected = json.loads((REFERENCE / "lenet" / f"{name}.json").read_text())
    weights = REFERENCE / "lenet" / "initial.caffemodel"
    with Solver(REFERENCE / "lenet" / f"{name}.solver.prototxt", weights=[weights]) as solver:
        losses = train(solver, 12)
    caffes = [output["loss"] for output in expected["losses"][:12]]
    np.testing.assert_allclose(losses[:3], caffes[:3], rtol=1e-6)
    np.testing.assert_allclose(losses, caffes, rtol=1e-4)


@pytest.mark.usefixtures("_there")
def test_lenet_tests_as_caffe_does_before_and_after_300_iterations() -> None:
    expected = json.loads((REFERENCE / "lenet" / "sgd.json").read_text())
    weights = REFERENCE / "lenet" / "initial.caffemodel"
    with Solver(REFERENCE / "lenet" / "sgd.solver.prototxt", weights=[weights]) as solver:
        first = solver.test()
        assert first["accuracy"] == pytest.approx(expected["tests"]["0"]["accuracy"], abs=1e-6)
        assert first["loss"] == pytest.approx(expected["tests"]["0"]["loss"], rel=1e-6)
        train(solver, 300)
        assert solver.test()["accuracy"] == pytest.approx(expected["tests"]["300"]["accuracy"], abs=0.015)
        for layer, norms in expected["final_param_norms"].items():
            found = [float(np.linalg.norm(blob.data)) for blob in solver.net.params[layer]]
            assert found[0] == pytest.approx(norms[0], rel=0.02), layer
