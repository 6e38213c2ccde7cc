"""The front end for PyTorch."""

from modum.torch.averager import Averager
from modum.torch.group import TorchGroup
from modum.torch.loader import loader
from modum.torch.partition import TorchStage, partition
from modum.update import Downpour, Elastic, Hybrid, SharedSamples

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
