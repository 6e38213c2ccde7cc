"""Fields that other editions of Caffe (NVIDIA's, Intel's, SSD's) have but BVLC Caffe does not.

Most of them choose how to compute: an engine, a precision, threads, a cache. They are dropped with a warning. Those
in `ARITHMETIC` choose what to compute; a net that relies on one would train differently without it.
"""

__all__ = ["ARITHMETIC", "ENGINES", "HARMLESS"]

# Message -> field -> (what it does, values with which it has no effect)
ARITHMETIC: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "SolverParameter": {
        "larc": ("scales the learning rate of each layer", ("false",)),
        "larc_policy": ("scales the learning rate of each layer", ()),
        "local_lr_auto": ("scales the learning rate of each layer", ("false",)),
        "local_gw_ratio": ("scales the learning rate of each layer", ()),
        "min_lr": ("bounds the learning rate", ("0", "0.0")),
        "rampup_interval": ("changes the learning rate of the first iterations", ("0",)),
        "rampup_lr": ("changes the learning rate of the first iterations", ()),
        "warmup_iter": ("changes the learning rate of the first iterations", ("0",)),
        "warmup_start_lr": ("changes the learning rate of the first iterations", ()),
        "momentum_policy": ("changes the momentum as training goes on", ('"fixed"',)),
        "max_momentum": ("changes the momentum as training goes on", ()),
        "weight_decay_policy": ("changes the weight decay as training goes on", ('"fixed"',)),
    },
    "BatchNormParameter": {
        "scale_bias": ("adds a learned scale and bias", ("false",)),
        "scale_filler": ("adds a learned scale", ()),
        "bias_filler": ("adds a learned bias", ()),
        "relu": ("adds a ReLU", ("false",)),
        "fused_relu": ("adds a ReLU", ("false",)),
    },
    "ConvolutionParameter": {
        "relu": ("adds a ReLU", ("false",)),
        "fuse_type": ("adds other layers", ("UNFUSED",)),
    },
    "DropoutParameter": {"scale_train": ("scales when testing instead of training", ("true",))},
    "EltwiseParameter": {"relu": ("adds a ReLU", ("false",))},
    "LossParameter": {"pre_fixed_normalizer": ("changes the normalization of the loss", ())},
    "PoolingParameter": {
        "ceil_mode": ("rounds the output's size down; round_mode: FLOOR says that in BVLC Caffe", ("true",)),
        "dilation": ("dilates the window", ("1",)),
    },
    "TransformationParameter": {
        "crop_h": ("crops to a rectangle", ("0",)),
        "crop_w": ("crops to a rectangle", ("0",)),
        "distort_param": ("distorts colors", ()),
        "emit_constraint": ("drops annotations", ()),
        "expand_param": ("changes the image's size", ()),
        "img_rand_resize_lower": ("changes the image's size", ("0",)),
        "img_rand_resize_upper": ("changes the image's size", ("0",)),
        "rand_resize_ratio_lower": ("changes the image's size", ("0",)),
        "rand_resize_ratio_upper": ("changes the image's size", ("0",)),
        "vertical_stretch_lower": ("changes the image's size", ("1",)),
        "vertical_stretch_upper": ("changes the image's size", ("1",)),
        "noise_param": ("adds noise", ()),
        "random_aspect_ratio_param": ("changes the image's size", ()),
        "random_resize_param": ("changes the image's size", ()),
        "resize_param": ("changes the image's size", ()),
    },
}

# Fields without effect whose names look like a misspelt field of BVLC Caffe.
HARMLESS = frozenset(
    {"engine", "parser_threads", "solver_data_type", "test_engine", "threads", "forward_type", "backward_type"}
)

# Values of BVLC Caffe's own `engine` fields that other editions have.
ENGINES = frozenset({"FFT", "INTEL_SPATIAL", "LIBDNN", "MKL2017", "MKLDNN"})
