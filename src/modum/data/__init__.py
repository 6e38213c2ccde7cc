"""Real data to train on, got once and checked."""

from modum.data.fashion import Images, default_directory, fashion_mnist
from modum.data.idx import DataError

__all__ = ["DataError", "Images", "default_directory", "fashion_mnist"]
