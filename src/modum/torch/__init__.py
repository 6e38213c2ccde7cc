"""The front end for PyTorch."""

from modum.rules import Downpour, Elastic, Hybrid
from modum.samples import SharedSamples
from modum.torch.averager import Averager
from modum.torch.group import TorchGroup
from modum.torch.loader import loader
from modum.torch.partition import TorchStage, partition

__all__ = [
    "Averager",
    "Downpour",
    "Elastic",
    "Hybrid",
    "SharedSamples",
    "TorchGroup",
    "TorchStage",
    "loader",
    "partition",
]
