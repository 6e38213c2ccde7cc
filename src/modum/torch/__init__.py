"""The front end for PyTorch."""

from modum.torch.averager import Averager
from modum.torch.group import TorchGroup
from modum.torch.loader import Loader
from modum.torch.partition import partition
from modum.torch.stage import TorchStage

__all__ = ["Averager", "Loader", "TorchGroup", "TorchStage", "partition"]
