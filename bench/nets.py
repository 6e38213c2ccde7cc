"""The nets of the benchmark `caffe`, as net files and written by hand in PyTorch.

An iteration is forward, backward and the update: SGD with momentum and weight decay, the biases at twice the rate.
Both sides have their batch in memory; the pictures are noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modum.caffe import Solver, read_solver

MOMENTUM = 0.9
DECAY = 0.0005
RATE = 1e-4
CLASSES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """A net on both sides.

    Attributes:
        name: how the row calls it.
        at_most: the bar.
        shape: of a batch, [images, channels, height, width].
        layers: the net file, from the blob `data` to the blob `score`.
        model: the same by hand.
        iterations: in one round.
    """

    name: str
    at_most: float
    shape: tuple[int, int, int, int]
    layers: str
    model: Callable[[], nn.Module]
    iterations: int


def layer(name: str, kind: str, bottom: str, top: str, fields: str = "") -> str:
    """One layer of a net file; several bottoms or tops are separated by spaces."""
    blobs = " ".join(f'{end}: "{blob}"' for end, names in (("bottom", bottom), ("top", top)) for blob in names.split())
    return f'layer {{ name: "{name}" type: "{kind}" {blobs} {fields} }}\n'


def convolution(bottom: str, name: str, outputs: int, kernel: int, *, pad: int = 0, stride: int = 1) -> str:
    """A convolution with a bias that learns at twice the rate."""
    fields = (
        f'num_output: {outputs} kernel_size: {kernel} pad: {pad} stride: {stride} weight_filler {{ type: "xavier" }}'
    )
    multipliers = "param { lr_mult: 1 } param { lr_mult: 2 }"
    return layer(name, "Convolution", bottom, name, f"{multipliers} convolution_param {{ {fields} }}")


def dense(bottom: str, name: str, outputs: int) -> str:
    """An inner product with a bias that learns at twice the rate."""
    fields = f'num_output: {outputs} weight_filler {{ type: "xavier" }}'
    multipliers = "param { lr_mult: 1 } param { lr_mult: 2 }"
    return layer(name, "InnerProduct", bottom, name, f"{multipliers} inner_product_param {{ {fields} }}")


def pooling(bottom: str, name: str, kind: str, kernel: int) -> str:
    """A pooling with stride 2."""
    return layer(name, "Pooling", bottom, name, f"pooling_param {{ pool: {kind} kernel_size: {kernel} stride: 2 }}")


def relu(blob: str) -> str:
    """In place."""
    return layer(f"{blob}_relu", "ReLU", blob, blob)


def lenet() -> Contest:
    """Two convolutions and two dense layers on 28 x 28."""
    return Contest(
        name="LeNet, batch 64",
        at_most=1.15,
        shape=(64, 1, 28, 28),
        layers=convolution("data", "conv1", 20, 5)
        + pooling("conv1", "pool1", "MAX", 2)
        + convolution("pool1", "conv2", 50, 5)
        + pooling("conv2", "pool2", "MAX", 2)
        + dense("pool2", "ip1", 500)
        + relu("ip1")
        + dense("ip1", "score", CLASSES),
        model=lambda: nn.Sequential(
            *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2, 2, ceil_mode=True)),
            *(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2, 2, ceil_mode=True), nn.Flatten()),
            *(nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, CLASSES)),
        ),
        iterations=5,
    )


def cifar10_quick() -> Contest:
    """Three convolutions and two dense layers on 32 x 32."""
    return Contest(
        name="cifar10_quick, batch 100",
        at_most=1.15,
        shape=(100, 3, 32, 32),
        layers=convolution("data", "conv1", 32, 5, pad=2)
        + pooling("conv1", "pool1", "MAX", 3)
        + relu("pool1")
        + convolution("pool1", "conv2", 32, 5, pad=2)
        + relu("conv2")
        + pooling("conv2", "pool2", "AVE", 3)
        + convolution("pool2", "conv3", 64, 5, pad=2)
        + relu("conv3")
        + pooling("conv3", "pool3", "AVE", 3)
        + dense("pool3", "ip1", 64)
        + dense("ip1", "score", CLASSES),
        model=lambda: nn.Sequential(
            *(nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(inplace=True)),
            *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(inplace=True), nn.AvgPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(inplace=True), nn.AvgPool2d(3, 2, ceil_mode=True)),
            *(nn.Flatten(), nn.Linear(1024, 64), nn.Linear(64, CLASSES)),
        ),
        iterations=2,
    )


STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Of ResNet-50: channels inside, blocks, and the first block's stride."""


def normalized(bottom: str, name: str, outputs: int, kernel: int, stride: int = 1, *, rectified: bool = True) -> str:
    """A convolution without bias, batch normalization with scale and bias, and a ReLU, as Caffe's ResNets have them."""
    size = f"num_output: {outputs} kernel_size: {kernel} pad: {kernel // 2} stride: {stride}"
    fields = f'bias_term: false weight_filler {{ type: "msra" }} {size}'
    return (
        layer(name, "Convolution", bottom, name, f"convolution_param {{ {fields} }}")
        + layer(f"{name}_bn", "BatchNorm", name, name)
        + layer(f"{name}_scale", "Scale", name, name, "scale_param { bias_term: true }")
        + (relu(name) if rectified else "")
    )


def resnet50_layers() -> str:
    """The net file of ResNet-50 (He et al. 2015), the strides in the first convolutions of the blocks."""
    text = normalized("data", "conv1", 64, 7, 2) + pooling("conv1", "pool1", "MAX", 3)
    last = "pool1"
    for stage, (channels, blocks, first) in enumerate(STAGES):
        for block in range(blocks):
            name, stride = f"res{stage}_{block}", first if block == 0 else 1
            straight = last
            if block == 0:
                straight = f"{name}_straight"
                text += normalized(last, straight, 4 * channels, 1, stride, rectified=False)
            text += normalized(last, f"{name}_a", channels, 1, stride)
            text += normalized(f"{name}_a", f"{name}_b", channels, 3)
            text += normalized(f"{name}_b", f"{name}_c", 4 * channels, 1, rectified=False)
            text += layer(name, "Eltwise", f"{straight} {name}_c", name) + relu(name)
            last = name
    text += layer("pool5", "Pooling", last, "pool5", "pooling_param { pool: AVE global_pooling: true }")
    return text + dense("pool5", "score", CLASSES)


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias and batch normalization."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    """A block of ResNet-50."""

    def __init__(self, inputs: int, channels: int, stride: int, *, first: bool) -> None:
        super().__init__()
        self.straight = nn.Sequential(*unit(inputs, 4 * channels, 1, stride)) if first else nn.Identity()
        self.rest = nn.Sequential(
            *(*unit(inputs, channels, 1, stride), nn.ReLU(inplace=True)),
            *(*unit(channels, channels, 3), nn.ReLU(inplace=True)),
            *unit(channels, 4 * channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.straight(x) + self.rest(x))


def resnet50_model() -> nn.Module:
    """ResNet-50 by hand."""
    parts = [*unit(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True)]
    inputs = 64
    for channels, blocks, first in STAGES:
        for block in range(blocks):
            parts.append(Bottleneck(inputs, channels, first if block == 0 else 1, first=block == 0))
            inputs = 4 * channels
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


def resnet50() -> Contest:
    """On 224 x 224."""
    return Contest(
        name="ResNet-50, batch 4",
        at_most=1.1,
        shape=(4, 3, 224, 224),
        layers=resnet50_layers(),
        model=resnet50_model,
        iterations=1,
    )


CONTESTS = (lenet, cifar10_quick, resnet50)


def by_caffe(contest: Contest) -> Solver:
    """The solver of a contest's net."""
    dims = " ".join(f"dim: {size}" for size in contest.shape)
    data = f"dummy_data_param {{ shape {{ {dims} }} shape {{ dim: {contest.shape[0]} }} data_filler {{}} }}"
    model = layer("data", "DummyData", "", "data label", data) + contest.layers
    model += layer("loss", "SoftmaxWithLoss", "score label", "loss")
    settings = f'base_lr: {RATE} lr_policy: "fixed" momentum: {MOMENTUM} weight_decay: {DECAY} max_iter: 1'
    solver = Solver(read_solver("solver.prototxt", text=f"{settings} net_param {{ {model} }}"))
    solver.net.forward()
    solver.net.blobs["data"].tensor.normal_()  # a constant blob is made once, and is this tensor from then on
    return solver


def by_hand(contest: Contest) -> Callable[[], None]:
    """An iteration of the net written in PyTorch."""
    model = contest.model()
    biases = [one for name, one in model.named_parameters() if name.endswith("bias")]
    weights = [one for name, one in model.named_parameters() if not name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "lr": 2 * RATE}]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    images, labels = torch.randn(contest.shape), torch.zeros(contest.shape[0], dtype=torch.long)

    def iterate() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()

    return iterate
