"""The batches of a group of workers: each member loads its part of what the net file asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modum.caffe.errors import ModelError
from modum.caffe.proto import NetParameter

if TYPE_CHECKING:
    from modum.caffe.proto import LayerParameter

__all__ = ["split_batches"]

PARAMETERS = ("data_param", "hdf5_data_param", "image_data_param", "memory_data_param", "window_data_param")
"""Where a data layer has its `batch_size`."""


def split_batches(net: NetParameter, member: int, members: int) -> tuple[NetParameter, float]:
    """Cut the batches of a net for the members of a group.

    Batches are cut as evenly as can be, the first members having one record more. Layers without a batch size (Input,
    Python) are left as they are.

    Args:
        net: as read from its file.
        member: number of the member, from 0.
        members: of the group.

    Returns:
        The net with this member's batches, and the factor of its gradients, with which a mean over members is the mean
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
