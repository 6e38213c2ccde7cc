"""Real data to train on, downloaded once and verified."""

from modum.data.cifar import cifar10
from modum.data.directory import default_directory
from modum.data.fashion import Images, fashion_mnist
from modum.data.idx import DataError
from modum.data.shakespeare import Text, shakespeare

__all__ = ["DataError", "Images", "Text", "cifar10", "default_directory", "fashion_mnist", "shakespeare"]
