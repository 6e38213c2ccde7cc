"""Upgrade old definitions of nets and solvers, as Caffe does for every file that it reads.

V0 and V1 `layers` become `layer`, the data layers' own scale, mean and crop go to `transform_param`, a net's `input`
becomes a layer Input, learning rates of batch normalization's statistics become 0, and `solver_type` becomes `type`.
"""

from pathlib import Path

from modum.caffe.errors import ModelError, where
from modum.caffe.legacy import upgrade_v0
from modum.caffe.proto import LayerParameter, NetParameter, SolverParameter, V1LayerParameter

__all__ = ["upgrade_net", "upgrade_solver"]

_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "SLICE": "Slice",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "THRESHOLD": "Threshold",
}
_SOLVERS = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # in the order of SolverType
_DATA = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}


def upgrade_net(net: NetParameter) -> None:
    """Upgrade a net in place to today's definitions.

    Args:
        net: a net of any version.

    Raises:
        ModelError: the net has both `layers` and `layer`, or the shape of an input is missing.
    """
    if any(layer.HasField("layer") for layer in net.layers):
        upgrade_v0(net)
    if net.layers and net.layer:
        raise ModelError.at(net, 'has both "layers" and "layer"; only one of them can be used', "layer")
    for old in net.layers:
        _move_transformation(old)
        _upgrade_v1(old, net.layer.add())
    del net.layers[:]
    if net.input:
        _upgrade_input(net)
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = 0
                spec.decay_mult = 0


def upgrade_solver(solver: SolverParameter, path: str) -> None:
    """Upgrade a solver, and the nets inside it, in place.

    A missing `snapshot_prefix` becomes the solver's own path without the suffix; a prefix that is a directory gets the
    solver's own name in it.

    Args:
        solver: a solver of any version.
        path: the file it was read from.

    Raises:
        ModelError: the solver has both `solver_type` and `type`.
    """
    if solver.HasField("solver_type"):
        if solver.HasField("type"):
            raise ModelError.at(
                solver, 'has both "solver_type" and "type"; only one of them can be used', "solver_type"
            )
        solver.type = _SOLVERS[solver.solver_type]
        solver.ClearField("solver_type")
    if not solver.HasField("snapshot_prefix"):
        solver.snapshot_prefix = str(Path(path).with_suffix(""))
    elif Path(solver.snapshot_prefix).is_dir():
        solver.snapshot_prefix = str(Path(solver.snapshot_prefix) / Path(path).stem)
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            upgrade_net(getattr(solver, name))
    for net in solver.test_net_param:
        upgrade_net(net)


def _move_transformation(layer: V1LayerParameter) -> None:
    """Move a V1 data layer's scale, mean, crop and mirror to its `transform_param`."""
    name = _DATA.get(V1LayerParameter.LayerType.Name(layer.type))
    if name is None:
        return
    data = getattr(layer, name)
    for field in ("scale", "mean_file", "crop_size", "mirror"):
        if data.HasField(field):
            setattr(layer.transform_param, field, getattr(data, field))
            data.ClearField(field)


def _upgrade_v1(old: V1LayerParameter, new: LayerParameter) -> None:
    """Fill the empty `new` from `old`; fields of the same name have the same meaning."""
    new.type = _TYPES[V1LayerParameter.LayerType.Name(old.type)]
    for _ in range(max(map(len, (old.param, old.blob_share_mode, old.blobs_lr, old.weight_decay)))):
        new.param.add()
    for spec, name in zip(new.param, old.param, strict=False):
        spec.name = name
    for spec, mode in zip(new.param, old.blob_share_mode, strict=False):
        spec.share_mode = mode
    for spec, rate in zip(new.param, old.blobs_lr, strict=False):
        spec.lr_mult = rate
    for spec, decay in zip(new.param, old.weight_decay, strict=False):
        spec.decay_mult = decay
    for field, value in old.ListFields():
        if field.name in ("type", "param", "blob_share_mode", "blobs_lr", "weight_decay"):
            continue
        if field.message_type is None and isinstance(value, str):
            setattr(new, field.name, value)
        elif hasattr(value, "CopyFrom"):
            getattr(new, field.name).CopyFrom(value)
        else:
            getattr(new, field.name).extend(value)


def _upgrade_input(net: NetParameter) -> None:
    """Put an Input layer first that makes the blobs `net.input`, with the shapes of input_shape or input_dim."""
    if net.input_shape:
        shapes = [list(shape.dim) for shape in net.input_shape]
    else:
        shapes = [list(net.input_dim[start : start + 4]) for start in range(0, len(net.input_dim), 4)]
    if shapes:
        if len(shapes) != len(net.input) or not all(shapes) or (not net.input_shape and len(net.input_dim) % 4):
            given = (
                f"{len(net.input_shape)} of input_shape" if net.input_shape else f"{len(net.input_dim)} of input_dim"
            )
            raise ModelError.at(net, f"{len(net.input)} of input need as many shapes; there are {given}", "input")
        layer = LayerParameter(name="input", type="Input", top=net.input)
        for dimensions in shapes:
            layer.input_param.shape.add(dim=dimensions)
        if net.HasField("modum_source"):
            layer.modum_source.file, _, line = where(net, "input").rpartition(":")
            layer.modum_source.line = int(line)
        others = list(net.layer)
        del net.layer[:]
        net.layer.extend([layer, *others])
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)
