"""The front end for TensorFlow without Keras's `fit`: `tf.Module` and loops with a `tf.GradientTape`.

The names below are loaded when they are first used, and import TensorFlow.
"""

from typing import TYPE_CHECKING

from modum._lazy import attach

if TYPE_CHECKING:
    from modum.tensorflow.averager import Averager
    from modum.tensorflow.group import TensorFlowGroup, launched_group

__all__ = ["Averager", "TensorFlowGroup", "launched_group"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "modum.tensorflow.averager": ("Averager",),
        "modum.tensorflow.group": ("TensorFlowGroup", "launched_group"),
    },
)
