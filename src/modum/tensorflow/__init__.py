"""The front end for TensorFlow without Keras' fit: `tf.Module` and loops with a `tf.GradientTape`."""

from modum.tensorflow.averager import Averager
from modum.tensorflow.group import TensorFlowGroup, launched_group
from modum.update import Downpour, Elastic, Hybrid, SharedSamples

__all__ = ["Averager", "Downpour", "Elastic", "Hybrid", "SharedSamples", "TensorFlowGroup", "launched_group"]
