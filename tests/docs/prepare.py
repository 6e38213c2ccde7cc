"""The files that scripts of the docs find where they are run."""

from pathlib import Path

CONVOLUTION = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 5 stride: 3 weight_filler { type: "xavier" } } }
layer { name: "score" type: "InnerProduct" bottom: "conv1" top: "score"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
"""
TRAIN = f"""
layer {{ name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {{ shape {{ dim: 10 dim: 1 dim: 28 dim: 28 }} shape {{ dim: 10 }}
    data_filler {{ type: "gaussian" }} data_filler {{ type: "constant" value: 1 }} }} }}
{CONVOLUTION}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }}
"""
DEPLOY = f"""
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 10 dim: 3 dim: 32 dim: 32 }} }} }}
{CONVOLUTION}
layer {{ name: "prob" type: "Softmax" bottom: "score" top: "prob" }}
"""
SOLVER = """
net: "train_val.prototxt"
type: "SGD"
base_lr: 0.01
lr_policy: "fixed"
max_iter: 120
test_iter: 1
test_interval: 1000
snapshot_prefix: "net"
"""


def prepare(document: Path, folder: Path) -> None:
    """Put the files that the scripts of a document need into an empty folder."""
    if document.stem == "caffe":
        _caffe(folder)


def _caffe(folder: Path) -> None:
    from PIL import Image

    from modum.caffe import TEST, Net

    for name, text in {"train_val": TRAIN, "deploy": DEPLOY, "solver": SOLVER}.items():
        (folder / f"{name}.prototxt").write_text(text)
    Net(folder / "deploy.prototxt", TEST).save(folder / "net.caffemodel")
    Image.new("RGB", (300, 200), "orange").save(folder / "cat.jpg")
