"""The front end for Keras 3, on its TensorFlow and its torch backend.

The names below are loaded when they are first used, and import only the backend in use.
"""

from typing import TYPE_CHECKING

from modum._lazy import attach

if TYPE_CHECKING:
    from modum.keras.averager import Averager
    from modum.keras.partition import partition
    from modum.keras.stage import KerasStage

__all__ = ["Averager", "KerasStage", "partition"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "modum.keras.averager": ("Averager",),
        "modum.keras.partition": ("partition",),
        "modum.keras.stage": ("KerasStage",),
    },
)
