"""The front end for TensorFlow without Keras' fit: `tf.Module` and loops with a `tf.GradientTape`."""

from modum.tensorflow.averager import Averager
from modum.tensorflow.group import TensorFlowGroup, launched_group

__all__ = ["Averager", "TensorFlowGroup", "launched_group"]
