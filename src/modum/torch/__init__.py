"""The front end for PyTorch."""

from modum.torch.averager import Averager
from modum.torch.group import TorchGroup
from modum.torch.loader import loader
from modum.update import Elastic, Hybrid, SharedSamples

__all__ = ["Averager", "Elastic", "Hybrid", "SharedSamples", "TorchGroup", "loader"]
