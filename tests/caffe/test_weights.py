"""Files of weights, states and means keep every bit, and have the layout that Caffe reads and writes."""

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from modum.caffe.arrays import from_blob, to_blob
from modum.caffe.errors import CaffeError, MissingFileError
from modum.caffe.proto import BlobProto, LayerParameter, NetParameter, SolverState
from modum.caffe.prototxt import read_net
from modum.caffe.weights import (
    State,
    read_mean,
    read_state,
    read_weights,
    same_shape,
    write_mean,
    write_state,
    write_weights,
)
from tests.caffe.shared import shared

# Every bit pattern of a float: infinities, both zeros, subnormals, and NaNs with something in them.
PATTERNS = st.integers(0, 2**32 - 1)
ANY_ARRAY = arrays(np.uint32, array_shapes(max_dims=5, max_side=4) | st.just(()), elements=PATTERNS).map(
    lambda bits: bits.view(np.float32)
)

NET = read_net(
    "net",
    text="""
layer { name: "data" type: "Input" top: "data" }
layer { name: "conv1/3x3" type: "Convolution" bottom: "data" top: "conv" param { name: "w" }
  convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "conv1" type: "Scale" bottom: "conv" top: "conv" }
""",
)


def some_blobs() -> dict[str, list[NDArray[np.floating]]]:
    random = np.random.default_rng(1)
    weights = random.standard_normal((2, 3, 3, 3)).astype(np.float32)
    twelve = [np.full((), index, np.float32) for index in range(12)]
    return {"conv1/3x3": [weights, np.array([np.nan, -0.0], np.float32)], "conv1": twelve}


def assert_same(read: dict[str, list[NDArray[np.floating]]], written: dict[str, list[NDArray[np.floating]]]) -> None:
    assert read.keys() == written.keys()
    for name, arrays_there in written.items():
        assert_same_arrays(read[name], arrays_there)


def assert_same_arrays(read: Sequence[NDArray[np.floating]], written: Sequence[NDArray[np.floating]]) -> None:
    for here, there in zip(read, written, strict=True):
        assert here.dtype == there.dtype
        assert here.shape == there.shape
        assert here.tobytes() == there.tobytes()


@given(ANY_ARRAY)
def test_a_blob_keeps_every_bit_and_its_shape(array: NDArray[np.float32]) -> None:
    blob = BlobProto()
    to_blob(array, blob)
    assert_same_arrays([from_blob(BlobProto.FromString(blob.SerializeToString()), "file")], [array])


def test_fields_of_a_blob_that_caffe_does_not_have_do_not_matter() -> None:
    content = BlobProto(data=[1, 2], shape={"dim": [2]}).SerializeToString() + b"\x52\x04more"
    assert from_blob(BlobProto.FromString(content), "file").tolist() == [1, 2]


def test_a_blob_is_what_protobuf_makes_of_its_numbers() -> None:
    array = np.arange(300, dtype=np.float32).reshape(3, 100)
    blob = BlobProto()
    to_blob(array.T, blob, -array.T)
    expected = BlobProto(data=array.T.ravel(), diff=-array.T.ravel(), shape={"dim": [100, 3]})
    assert blob == expected
    double = BlobProto()
    to_blob(array.astype(np.float64) / 3, double)
    assert list(double.double_data) == (array.astype(np.float64) / 3).ravel().tolist()
    assert_same_arrays([from_blob(double, "file")], [array.astype(np.float64) / 3])


@pytest.mark.parametrize("name", ["w.caffemodel", "w.caffemodel.h5"])
def test_weights_survive_to_the_same_bits(tmp_path: Path, name: str) -> None:
    write_weights(tmp_path / name, list(NET.layer), some_blobs(), name="net")
    assert_same(read_weights(tmp_path / name), some_blobs())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_binary_file_is_a_net_with_blobs_and_nothing_of_modum(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    gradients = {name: [-array for array in there] for name, there in some_blobs().items()}
    write_weights(path, list(NET.layer), some_blobs(), name="net", diffs=gradients)
    net = NetParameter.FromString(path.read_bytes())
    assert b"modum" not in path.read_bytes()
    assert net.name == "net"
    assert [layer.name for layer in net.layer] == ["data", "conv1/3x3", "conv1"]
    layer = net.layer[1]
    assert layer.convolution_param.num_output == 2
    assert list(layer.blobs[0].shape.dim) == [2, 3, 3, 3]
    assert list(layer.blobs[0].diff) == (-some_blobs()["conv1/3x3"][0]).ravel().tolist()
    assert layer.blobs[1].data[1] == 0


def test_an_hdf5_file_has_a_dataset_for_each_blob(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel.h5"
    layers = [LayerParameter(name=name) for name in ("data", "ip")]
    blobs = {"ip": [np.ones((2, 3), np.float32), np.zeros(2, np.float32)]}
    write_weights(path, layers, blobs)
    with h5py.File(path) as file:
        assert sorted(file) == ["data"]
        assert {name: sorted(group) for name, group in file["data"].items()} == {"data": [], "ip": ["0", "1"]}
        assert file["data/ip/0"].dtype == np.float32
        assert np.array_equal(file["data/ip/0"], blobs["ip"][0])
    write_weights(path, layers, blobs, diffs={"ip": [-array for array in blobs["ip"]]})
    with h5py.File(path) as file:
        assert np.array_equal(file["diff/ip/0"], -blobs["ip"][0])
    assert_same(read_weights(path), blobs)


@pytest.mark.parametrize("version", ["V1", "V0"])
def test_weights_of_old_nets_are_read(tmp_path: Path, version: str) -> None:
    blob = BlobProto(num=1, channels=1, height=2, width=3, data=range(6))
    layer = {"name": "ip", "blobs": [blob]}
    net = NetParameter(layers=[layer if version == "V1" else {"layer": {**layer, "type": "innerproduct"}}])
    (tmp_path / "old").write_bytes(net.SerializeToString())
    weights = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    assert_same(read_weights(tmp_path / "old"), {"ip": [weights]})


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ((2, 3), (2, 3), True),
        ((1, 1, 2, 3), (2, 3), True),
        ((1, 1, 1, 3), (3,), True),
        ((1, 1, 1, 1), (), True),
        ((1, 2, 3), (2, 3), False),
        ((3, 2), (2, 3), False),
        ((2, 1, 1, 3), (2, 3), False),
        ((6,), (2, 3), False),
    ],
)
def test_four_old_dimensions_fit_a_blob_of_fewer(found: tuple[int, ...], wanted: tuple[int, ...], same: bool) -> None:
    assert same_shape(found, wanted) is same


@pytest.mark.parametrize("name", ["s.solverstate", "s.solverstate.h5"])
def test_a_state_survives_to_the_same_bits(tmp_path: Path, name: str) -> None:
    history = [array for there in some_blobs().values() for array in there]
    write_state(tmp_path / name, 7000, "path/w.caffemodel", history, 3)
    state = read_state(tmp_path / name)
    assert (state.iteration, state.learned_net, state.current_step) == (7000, "path/w.caffemodel", 3)
    assert_same_arrays(state.history, history)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_state_has_the_layout_of_caffe(tmp_path: Path) -> None:
    write_state(tmp_path / "s", 12, "w", [np.ones((2, 2), np.float32)], 1)
    blob = BlobProto(data=[1] * 4, shape={"dim": [2, 2]})
    assert SolverState.FromString((tmp_path / "s").read_bytes()) == SolverState(
        iter=12, learned_net="w", current_step=1, history=[blob]
    )
    write_state(tmp_path / "s.h5", 12, "name", [np.ones((2, 2), np.float32)], 1)
    with h5py.File(tmp_path / "s.h5") as file:
        assert sorted(file) == ["current_step", "history", "iter", "learned_net"]
        assert (file["iter"].dtype, file["iter"].shape, file["iter"][0]) == (np.int32, (1,), 12)
        assert (file["learned_net"].dtype, file["learned_net"].shape) == (np.dtype("S5"), ())
        assert sorted(file["history"]) == ["0"]


def test_a_state_without_history_and_weights_is_read(tmp_path: Path) -> None:
    for name in ("s", "s.h5"):
        write_state(tmp_path / name, 0, "", [])
        assert read_state(tmp_path / name) == State(iteration=0, learned_net="", current_step=0, history=[])


def test_a_mean_image_survives_and_has_the_dimensions_of_old(tmp_path: Path) -> None:
    mean = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7
    write_mean(tmp_path / "m.binaryproto", mean)
    assert_same_arrays([read_mean(tmp_path / "m.binaryproto")], [mean])
    blob = BlobProto.FromString((tmp_path / "m.binaryproto").read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width, blob.HasField("shape")) == (1, 2, 3, 4, False)


def test_what_is_not_such_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    text, short, data = tmp_path / "text", tmp_path / "short", tmp_path / "data.h5"
    text.write_text("layer { }")
    weights = tmp_path / "weights"
    write_weights(weights, list(NET.layer), some_blobs(), name="net")
    short.write_bytes(weights.read_bytes()[:-5])
    with h5py.File(data, "w") as file:
        file["data"] = np.zeros(3)
    broken = tmp_path / "broken.h5"
    broken.write_bytes(data.read_bytes()[:200])
    bad = tmp_path / "bad"
    bad.write_bytes(BlobProto(num=2, data=[1]).SerializeToString())
    with pytest.raises(CaffeError, match="text: is not a NetParameter, or is damaged"):
        read_weights(text)
    with pytest.raises(CaffeError, match="short: is not a NetParameter, or is damaged"):
        read_weights(short)
    with pytest.raises(CaffeError, match="bad: is not a file of weights: it has no layers"):
        read_weights(bad)
    with pytest.raises(CaffeError, match=r"data\.h5: is not a file of weights: it has no group /data"):
        read_weights(data)
    with pytest.raises(CaffeError, match=r"data\.h5: is not a solver's state: it has no /iter"):
        read_state(data)
    with pytest.raises(CaffeError, match="weights: is not a solver's state: it has no iter"):
        read_state(weights)
    with pytest.raises(CaffeError, match=r"broken\.h5: cannot be read: "):
        read_weights(broken)
    with pytest.raises(CaffeError, match=r"bad: has a blob of shape \[2, 0, 0, 0\] with 1 values"):
        read_mean(bad)
    for read in (read_weights, read_state, read_mean):
        with pytest.raises(MissingFileError, match="nothing: cannot be read: No such file or directory"):
            read(tmp_path / "nothing")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    for name in ("w.caffemodel.h5", "w.caffemodel"):
        write_weights(tmp_path / name, list(NET.layer), some_blobs())
        ragged = [np.array(["no", "numbers"])]
        with pytest.raises((TypeError, ValueError)):
            write_weights(tmp_path / name, list(NET.layer), {"conv1": ragged})
        assert_same(read_weights(tmp_path / name), some_blobs())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.caffemodel", "w.caffemodel.h5"]


def test_what_the_real_caffe_wrote_is_read_and_written_again() -> None:
    expected = {
        "lenet": [("conv1", (20, 1, 5, 5)), ("conv2", (50, 20, 5, 5)), ("ip1", (500, 800)), ("ip2", (10, 500))],
        "cifar10-quick": [
            ("conv1", (32, 3, 5, 5)),
            ("conv2", (32, 32, 5, 5)),
            ("conv3", (64, 32, 5, 5)),
            ("ip1", (64, 1024)),
            ("ip2", (10, 64)),
        ],
    }
    for path in shared("caffe-reference/*/initial.caffemodel"):
        weights = read_weights(path)
        shapes = [(name, arrays_there[0].shape) for name, arrays_there in weights.items()]
        assert shapes == expected[path.parent.name]
        parsed = NetParameter.FromString(path.read_bytes())
        for layer in parsed.layer:
            for blob in layer.blobs:
                again = BlobProto()
                to_blob(from_blob(blob, path), again)
                assert again == blob
        norms = json.loads((path.parent / "sgd.json").read_text())["final_param_norms"]
        assert len(norms) in (len(weights), 2 * len(weights))
