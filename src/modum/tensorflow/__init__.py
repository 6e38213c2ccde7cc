"""The front end for TensorFlow without Keras' fit: `tf.Module` and loops with a `tf.GradientTape`."""

from modum.rules import Downpour, Elastic, Hybrid
from modum.samples import SharedSamples
from modum.tensorflow.averager import Averager
from modum.tensorflow.group import TensorFlowGroup, launched_group

__all__ = ["Averager", "Downpour", "Elastic", "Hybrid", "SharedSamples", "TensorFlowGroup", "launched_group"]
