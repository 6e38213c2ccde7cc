"""A model's tensors as flat vectors, without a framework."""

from modum.parameters.vector import Vector, shared_weights

__all__ = ["Vector", "shared_weights"]
