"""Convert layers of the first format, V0, to the second, V1.

A V0 layer has its name, type and settings in one flat message inside `layers`, and its bottoms and tops outside it.
Padding is a separate layer there, before a convolution or a pooling.
"""

import logging

from modum.caffe.errors import ModelError
from modum.caffe.proto import NetParameter, V0LayerParameter, V1LayerParameter

__all__ = ["upgrade_v0"]

_log = logging.getLogger(__name__)

_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

_WEIGHTS = {"conv": "convolution_param", "innerproduct": "inner_product_param"}
_WINDOWS = {"conv": "convolution_param", "pool": "pooling_param"}
_DATA = {"data": "data_param", "images": "image_data_param", "window_data": "window_data_param"}
_IMAGES = {"images": "image_data_param"}
_LRN = {"lrn": "lrn_param"}
_REGIONS = {"window_data": "window_data_param"}

# V0 field -> (its name in V1, V0 type -> message of V1 that has it; None: `transform_param`, for every type)
_FIELDS: dict[str, tuple[str, dict[str, str] | None]] = {
    "num_output": ("num_output", _WEIGHTS),
    "biasterm": ("bias_term", _WEIGHTS),
    "weight_filler": ("weight_filler", _WEIGHTS),
    "bias_filler": ("bias_filler", _WEIGHTS),
    "pad": ("pad", _WINDOWS),
    "kernelsize": ("kernel_size", _WINDOWS),
    "group": ("group", {"conv": "convolution_param"}),
    "stride": ("stride", _WINDOWS),
    "pool": ("pool", {"pool": "pooling_param"}),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", _LRN),
    "alpha": ("alpha", _LRN),
    "beta": ("beta", _LRN),
    "k": ("k", _LRN),
    "source": ("source", {**_DATA, "hdf5_data": "hdf5_data_param", "infogain_loss": "infogain_loss_param"}),
    "scale": ("scale", None),
    "meanfile": ("mean_file", None),
    "batchsize": ("batch_size", {**_DATA, "hdf5_data": "hdf5_data_param"}),
    "cropsize": ("crop_size", None),
    "mirror": ("mirror", None),
    "rand_skip": ("rand_skip", {"data": "data_param", "images": "image_data_param"}),
    "det_fg_threshold": ("fg_threshold", _REGIONS),
    "det_bg_threshold": ("bg_threshold", _REGIONS),
    "det_fg_fraction": ("fg_fraction", _REGIONS),
    "det_context_pad": ("context_pad", _REGIONS),
    "det_crop_mode": ("crop_mode", _REGIONS),
    "new_height": ("new_height", _IMAGES),
    "new_width": ("new_width", _IMAGES),
    "shuffle_images": ("shuffle", _IMAGES),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
}


def upgrade_v0(net: NetParameter) -> None:
    """Turn the V0 layers in `net.layers` into V1 layers, in place.

    Settings that do not belong to a layer's type are dropped with a warning, as in Caffe.

    Args:
        net: a net with V0 layers.

    Raises:
        ModelError: V0 has no such type, or a padding is not directly before a convolution or pooling.
    """
    old = list(net.layers)
    makers = {"": V1LayerParameter()}
    new = []
    for layer in old:
        if not layer.HasField("layer"):
            raise ModelError.at(layer, "is a V1 layer in a net of V0 layers")
        if layer.layer.type != "padding":
            connected = _without_padding(layer, makers)
            upgraded = V1LayerParameter(bottom=connected.bottom, top=connected.top)
            upgraded.modum_source.CopyFrom(layer.modum_source)
            _upgrade_layer(connected.layer, upgraded)
            new.append(upgraded)
        for top in layer.top:
            makers[top] = layer
    del net.layers[:]
    net.layers.extend(new)


def _without_padding(layer: V1LayerParameter, makers: dict[str, V1LayerParameter]) -> V1LayerParameter:
    """Return a copy of `layer` that does its own padding, if its bottom comes from a padding layer."""
    merged = V1LayerParameter()
    merged.CopyFrom(layer)
    for index, bottom in enumerate(layer.bottom):
        padding = makers.get(bottom)
        if padding is None or padding.layer.type != "padding":
            continue
        if layer.layer.type not in _WINDOWS or len(layer.bottom) != 1 or len(padding.bottom) != 1:
            raise ModelError.at(
                layer, f'"{layer.layer.name}" takes a padded bottom; only conv and pool of one blob can'
            )
        merged.layer.pad = padding.layer.pad
        merged.bottom[index] = padding.bottom[0]
    return merged


def _upgrade_layer(old: V0LayerParameter, new: V1LayerParameter) -> None:
    new.name = old.name
    new.blobs.extend(old.blobs)
    new.blobs_lr.extend(old.blobs_lr)
    new.weight_decay.extend(old.weight_decay)
    if old.HasField("type"):
        if old.type not in _TYPES:
            raise ModelError.at(new, f'has the type "{old.type}", which V0 nets do not have')
        new.type = V1LayerParameter.LayerType.Value(_TYPES[old.type])
    if old.HasField("hdf5_output_param"):
        new.hdf5_output_param.CopyFrom(old.hdf5_output_param)
    for field, value in old.ListFields():
        if field.name in ("name", "type", "blobs", "blobs_lr", "weight_decay", "hdf5_output_param"):
            continue
        name, owners = _FIELDS.get(field.name, ("", {}))
        owner = "transform_param" if owners is None else owners.get(old.type)
        if owner is None:
            _log.warning(
                "%s", ModelError.at(new, f'"{field.name}" means nothing to a layer "{old.type}"; it is left out')
            )
            continue
        target = getattr(new, owner)
        kind = target.DESCRIPTOR.fields_by_name[name]
        if kind.message_type is not None:
            getattr(target, name).CopyFrom(value)
        elif isinstance(getattr(target, name), int | float | str):
            setattr(target, name, value)
        else:
            getattr(target, name).append(value)
