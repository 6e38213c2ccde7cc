"""What goes wrong with Caffe's files and nets."""

from modum.errors import ModumError

__all__ = ["CaffeError", "ModelError"]


class CaffeError(ModumError):
    """Root of what the Caffe front end raises; by itself: a file of weights, state or means cannot be used."""


class ModelError(CaffeError):
    """A net or a solver is not one that Caffe would take.

    The message starts with the place, as far as it is known: `train_val.prototxt:12: layer "conv1": ...`.
    """
