"""Files of every front end, made by the front end itself where it is small enough to load."""

import json
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from modum.caffe import Net
from modum.plan import model_bytes


def test_an_amount() -> None:
    assert model_bytes("100MB") == 100_000_000


def test_pytorch(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    floats = 4 * (3 * 5 + 5 + 4 * 5)  # num_batches_tracked is an integer
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert model_bytes(str(tmp_path / "model.pt")) == floats
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pth")
    assert model_bytes(str(tmp_path / "checkpoint.pth")) == floats
    torch.save(model.bfloat16().state_dict(), tmp_path / "half.pt")
    assert model_bytes(str(tmp_path / "half.pt")) == floats // 2
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="state_dict"):
        model_bytes(str(tmp_path / "whole.pt"))


def test_safetensors(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "weight": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [0, 16]},
        "steps": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]},
        "bias": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]},
    }
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(40))
    assert model_bytes(str(file)) == 32
    file.write_bytes(struct.pack("<Q", 1 << 60) + text)
    with pytest.raises(ValueError, match="not a safetensors file"):
        model_bytes(str(file))


def test_keras(tmp_path: Path) -> None:
    weights = tmp_path / "model.weights.h5"
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((3, 5), np.float32)
        file["layers/dense/vars/1"] = np.zeros(5, np.float32)
        file["optimizer/vars/1"] = np.zeros((3, 5), np.float32)
    assert model_bytes(str(weights)) == 80
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.write(weights, "model.weights.h5")
    assert model_bytes(str(tmp_path / "model.keras")) == 80


def test_caffe(tmp_path: Path) -> None:
    (tmp_path / "deploy.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 } } }\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 5 } }\n'
    )
    assert model_bytes(str(tmp_path / "deploy.prototxt")) == 80
    with Net(tmp_path / "deploy.prototxt") as net:
        net.save(tmp_path / "net.caffemodel")
    assert model_bytes(str(tmp_path / "net.caffemodel")) == 80


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"x", "of no kind"),
        ("model.keras", b"x", "not a .keras file"),
        ("weights.h5", b"x", "not an HDF5 file"),
        ("model.pt", b"x", "not a PyTorch file"),
        ("net.prototxt", b"layer {", "net.prototxt"),
        ("net.caffemodel", b"\xff\xff", "net.caffemodel"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        model_bytes(str(tmp_path / name))


def test_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="there is no file"):
        model_bytes("nowhere.pt")
    with pytest.raises(ValueError, match="neither a file nor an amount"):
        model_bytes("resnet50")
