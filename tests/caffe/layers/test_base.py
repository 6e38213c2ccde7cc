"""Counts of bottoms and tops, the registry, weights of losses, and parameters that come with the net file."""

import pytest

from modum.caffe import TEST, TRAIN, ModelError, layer_types
from modum.caffe.layers import make_layer
from tests.caffe.layers.support import make, parse

TYPES = """
Convolution Deconvolution Pooling LRN Crop Im2col SPP InnerProduct Dropout Embed BatchNorm Scale Bias MVN Concat
Slice Split Eltwise Flatten Reshape Reduction Tile Filter BatchReindex ArgMax Silence Parameter RNN LSTM LSTMUnit
ReLU PReLU ELU Swish Sigmoid TanH AbsVal Power Exp Log BNLL Threshold Clip Softmax SoftmaxWithLoss
MultinomialLogisticLoss InfogainLoss SigmoidCrossEntropyLoss EuclideanLoss HingeLoss ContrastiveLoss Accuracy Python
Data ImageData HDF5Data HDF5Output MemoryData DummyData WindowData Input
"""


def test_every_layer_type_of_caffe_is_there() -> None:
    assert set(layer_types()) == set(TYPES.split())


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("Convolutoin", "did you mean Convolution"),
        ("relu", "did you mean .*ReLU"),
        ("???", "there are AbsVal, Accuracy"),
    ],
)
def test_an_unknown_type_is_told_with_near_names(kind: str, hint: str) -> None:
    spec = parse("ReLU")
    spec.type = kind
    with pytest.raises(ModelError) as caught:
        make_layer(spec, TRAIN)
    assert str(caught.value).startswith(f'net.prototxt:1: layer "tested": unknown type "{kind}"')
    caught.match(hint)


@pytest.mark.parametrize(
    ("kind", "bottoms", "tops", "problem"),
    [
        ("ReLU", 2, 1, "ReLU takes exactly 1 bottom, but has 2: b0, b1"),
        ("ReLU", 1, 0, "ReLU takes exactly 1 top, but has 0: none"),
        ("Eltwise", 1, 1, "Eltwise takes at least 2 bottoms, but has 1: b0"),
        ("Accuracy", 2, 3, "Accuracy takes 1 to 2 tops, but has 3: t0, t1, t2"),
        ("Convolution", 1, 2, "makes one top of each bottom, but has 1 bottoms and 2 tops"),
    ],
)
def test_counts_are_checked(kind: str, bottoms: int, tops: int, problem: str) -> None:
    with pytest.raises(ModelError, match=rf'^net\.prototxt:1: layer "tested": {problem}'):
        make(kind, "", *[(2, 3)] * bottoms, tops=tops)


def test_losses_make_a_top_that_nobody_named() -> None:
    layer, shapes = make("SoftmaxWithLoss", "", (2, 3), (2,), tops=0)
    assert shapes == [()]
    assert layer.top_count == 1
    assert layer.loss_weights == [1]


def test_loss_weights() -> None:
    assert make("SoftmaxWithLoss", "", (2, 3), (2,), tops=2)[0].loss_weights == [1, 0]
    assert make("SoftmaxWithLoss", "loss_weight: 0.5", (2, 3), (2,))[0].loss_weights == [0.5]
    assert make("ReLU", "", (2, 3))[0].loss_weights == [0]
    assert make("Reduction", "loss_weight: 2", (2, 3))[0].loss_weights == [2]
    layer, _ = make("SoftmaxWithLoss", "loss_weight: 1", (2, 3), (2,), tops=2)
    with pytest.raises(ModelError, match=r"has 2 tops but 1 loss_weight"):
        _ = layer.loss_weights


def test_labels_need_no_gradient() -> None:
    layer, _ = make("SoftmaxWithLoss", "", (2, 3), (2,))
    assert [layer.needs_gradient(index) for index in range(2)] == [True, False]


def test_a_net_file_may_bring_weights() -> None:
    fields = "inner_product_param { num_output: 1 bias_term: false } blobs { shape { dim: 1 dim: 2 } data: 3 data: 4 }"
    layer = make_layer(parse("InnerProduct", fields), TEST)
    layer.setup([(1, 2)])
    assert layer.blobs[0].tolist() == [[3, 4]]
    with pytest.raises(ModelError, match=r"tested.*blobs\[0\] in the net file has 2 numbers"):
        make_layer(parse("InnerProduct", fields), TEST).setup([(1, 3)])
