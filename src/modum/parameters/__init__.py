"""A model's tensors as flat vectors, without a framework."""

from modum.parameters.array import ArrayVector
from modum.parameters.layout import ALIGNMENT, FlatLayout, TensorSpec, check_specs, unique_names
from modum.parameters.vector import Vector, mixed, shared_weights

__all__ = [
    "ALIGNMENT",
    "ArrayVector",
    "FlatLayout",
    "TensorSpec",
    "Vector",
    "check_specs",
    "mixed",
    "shared_weights",
    "unique_names",
]
