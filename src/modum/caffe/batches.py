"""Divide the batches of a net file among the members of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modum.caffe.errors import ModelError
from modum.caffe.proto import NetParameter

if TYPE_CHECKING:
    from modum.caffe.proto import LayerParameter

__all__ = ["split_batches"]

PARAMETERS = ("data_param", "hdf5_data_param", "image_data_param", "memory_data_param", "window_data_param")
"""Fields of data layers that have a `batch_size`."""


def split_batches(net: NetParameter, member: int, members: int) -> tuple[NetParameter, float]:
    """Divide the batches of a net among the members of a group.

    The parts are as even as possible; the first members may have one record more. Layers without a batch size (Input,
    Python) do not change.

    Args:
        net: the net as read from its file.
        member: number of the member, from 0.
        members: number of members.

    Returns:
        The net with this member's batches, and the factor on its gradients that makes a mean over members the mean
        over records.

    Raises:
        ModelError: a batch has fewer records than there are members.
    """
    split = NetParameter()
    split.CopyFrom(net)
    factor = 1.0
    for layer in split.layer if members > 1 else ():
        for name in PARAMETERS:
            if layer.HasField(name):
                whole = getattr(layer, name).batch_size
                part = getattr(layer, name).batch_size = _part(layer, name, whole, member, members)
                factor = part * members / whole
        for shape in layer.dummy_data_param.shape:
            if shape.dim:
                shape.dim[0] = _part(layer, "dummy_data_param", shape.dim[0], member, members)
        for index, whole in enumerate(layer.dummy_data_param.num):
            layer.dummy_data_param.num[index] = _part(layer, "dummy_data_param", whole, member, members)
    return split, factor


def _part(layer: LayerParameter, name: str, whole: int, member: int, members: int) -> int:
    if whole < members:
        problem = f"a batch of {whole} cannot be shared out to the {members} workers of a group"
        raise ModelError.at(layer, problem, name)
    return int(whole // members + (member < whole % members))
