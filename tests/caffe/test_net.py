"""Nets: how layers are connected, what is refused, the passes, and pycaffe's way with blobs and weights."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from modum.caffe import TEST, TRAIN, CaffeError, ModelError, Net, read_net
from tests.caffe.nets import CLASSIFIER, LINEAR, net, spec


def by_hand(model: Net) -> torch.Tensor:
    """The loss of CLASSIFIER by PyTorch's own functions."""
    weight, bias = (torch.from_numpy(blob.data) for blob in model.params["conv"])
    matrix, offset = (torch.from_numpy(blob.data) for blob in model.params["ip"])
    x = F.relu(F.conv2d(torch.full((6, 2, 4, 4), 0.5), weight, bias)).flatten(1)
    return F.cross_entropy(F.linear(x, matrix, offset), torch.ones(6, dtype=torch.long))


def test_the_loss_and_all_gradients_are_those_of_the_same_net_by_hand() -> None:
    model = net(CLASSIFIER)
    loss = float(model.forward()["loss"])
    model.backward()
    leaves = [torch.from_numpy(blob.data.copy()).requires_grad_() for blobs in model.params.values() for blob in blobs]
    x = F.relu(F.conv2d(torch.full((6, 2, 4, 4), 0.5), leaves[0], leaves[1]))
    y = F.linear(x.flatten(1), leaves[2], leaves[3])
    y.retain_grad()
    expected = F.cross_entropy(y, torch.ones(6, dtype=torch.long))
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6) == model.loss
    diffs = [blob.diff for blobs in model.params.values() for blob in blobs]
    for diff, leaf in zip(diffs, leaves, strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(diff, leaf.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert y.grad is not None
    np.testing.assert_allclose(model.blobs["ip"].diff, y.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_names_shapes_and_outputs_are_those_of_pycaffe() -> None:
    model = net(CLASSIFIER, TEST)
    assert model.name == "small"
    assert model._layer_names == ["data", "conv", "relu", "ip", "accuracy", "loss"]
    assert list(model.blobs) == ["data", "label", "conv", "ip", "accuracy", "loss"]
    assert model.inputs == []
    assert model.outputs == ["accuracy", "loss"]
    assert {name: blob.shape for name, blob in model.blobs.items()} == {
        "data": (6, 2, 4, 4),
        "label": (6,),
        "conv": (6, 3, 2, 2),
        "ip": (6, 4),
        "accuracy": (),
        "loss": (),
    }
    assert [(name, [blob.shape for blob in blobs]) for name, blobs in model.params.items()] == [
        ("conv", [(3, 2, 3, 3), (3,)]),
        ("ip", [(4, 12), (4,)]),
    ]
    assert model.top_names["data"] == ["data", "label"]
    assert model.bottom_names["loss"] == ["ip", "label"]
    assert (model.blobs["data"].num, model.blobs["data"].channels, model.blobs["label"].width) == (6, 2, 1)
    assert model.blob_loss_weights["loss"] == 1.0
    assert [layer.spec.type for layer in model.layers][:2] == ["DummyData", "Convolution"]


def test_an_in_place_layer_gives_its_blob_a_new_value() -> None:
    model = net(CLASSIFIER)
    model.forward(end="conv")
    before = model.blobs["conv"].data.copy()
    assert (before < 0).any()
    model.forward(start="relu", end="relu")
    np.testing.assert_array_equal(model.blobs["conv"].data, np.maximum(before, 0))


def test_data_and_weights_can_be_written_in_place() -> None:
    model = net(LINEAR, TEST)
    model.params["ip"][0].data[...] = [[1, 2, 3], [0, 0, 1]]
    model.blobs["x"].data[...] = [[1, 1, 1], [0, 0, 2]]
    np.testing.assert_array_equal(model.forward()["y"], [[6, 1], [6, 2]])
    np.testing.assert_array_equal(model.forward(x=np.array([[1, 0, 0]]))["y"], [[1, 0]])
    assert model.blobs["y"].shape == (1, 2)


def test_new_shapes_of_inputs_go_through_the_net() -> None:
    model = net(LINEAR, TEST)
    model.blobs["x"].reshape(5, 3)
    model.reshape()
    assert model.blobs["y"].shape == (5, 2)
    assert model.blobs["y"].data.shape == (5, 2)
    model.forward()
    assert model.blobs["y"].data.shape == (5, 2)


def test_a_shape_that_a_layer_cannot_take_is_refused() -> None:
    model = net(LINEAR, TEST)
    model.blobs["x"].reshape(2, 4)
    with pytest.raises(ModelError, match=r'layer "ip": .*'):
        model.forward()


def test_inputs_layers_and_blobs_that_are_not_there_are_named() -> None:
    model = net(LINEAR, TEST)
    with pytest.raises(ValueError, match=r"'z' is not an input of the net, which has x"):
        model.forward(z=np.zeros(1))
    with pytest.raises(ValueError, match="no layer 'fc'"):
        model.forward(end="fc")
    with pytest.raises(ValueError, match="no blob 'fc'"):
        model.forward(blobs=["fc"])


def test_a_backward_pass_can_begin_at_a_layer_with_a_diff_of_the_users() -> None:
    model = net("force_backward: true " + LINEAR, TEST)
    weights = model.params["ip"][0].data
    model.forward(x=np.ones((2, 3)))
    model.blobs["y"].diff[...] = [[1, 0], [0, 2]]
    diffs = model.backward(start="ip")
    np.testing.assert_allclose(diffs["x"], np.array([[1, 0], [0, 2]]) @ weights, rtol=1e-6)
    np.testing.assert_allclose(model.params["ip"][0].diff, [[1, 1, 1], [2, 2, 2]])
    again = model.backward(y=np.array([[0, 1], [0, 0]]))
    np.testing.assert_allclose(again["x"], [weights[1], np.zeros(3)], rtol=1e-6)
    np.testing.assert_allclose(model.params["ip"][0].diff, [[1, 1, 1], [3, 3, 3]])  # gradients of weights add up


def test_a_net_for_testing_can_go_backward_too() -> None:
    model, twin = net(CLASSIFIER, TEST), net(CLASSIFIER, TRAIN)
    for one in (model, twin):
        one.forward()
        one.backward()
    assert np.abs(twin.params["ip"][0].diff).max() > 0
    np.testing.assert_array_equal(model.params["ip"][0].diff, twin.params["ip"][0].diff)


TWICE = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" lr_mult: 3 }
  inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "x" top: "b" param { name: "w" %s }
  inner_product_param { num_output: %s bias_term: false weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "%s" top: "loss" loss_weight: 1 }
"""


def test_layers_share_a_blob_by_name_and_its_gradients_add_up() -> None:
    model = net(
        TWICE % ("", 3, "b") + 'layer { name: "more" type: "Reduction" bottom: "a" top: "more" loss_weight: 2 }'
    )
    assert len(model.learnables) == 1
    assert model.learnables[0].lr_mult == 3
    model.params["a"][0].data[0, 0] = 7
    assert model.params["b"][0].data[0, 0] == 7
    model.forward(x=np.ones((2, 3)))
    model.backward()
    np.testing.assert_allclose(model.params["a"][0].diff, np.full((3, 3), 6))
    assert model.params["a"][0].diff.base is not None


def test_a_shared_blob_may_have_another_shape_if_it_says_so() -> None:
    text = TWICE.replace('bottom: "x" top: "b"', 'bottom: "x9" top: "b"').replace(
        'layer { name: "b"',
        'layer { name: "x9" type: "Input" top: "x9" input_param { shape { dim: 2 dim: 9 } } }\nlayer { name: "b"',
    )
    with pytest.raises(ModelError, match=r"shape is \(1, 9\) and not \(3, 3\)"):
        net(text % ("", 1, "b"))
    with pytest.raises(ModelError, match=r"has not as many elements"):
        net(text % ("share_mode: PERMISSIVE", 2, "b"))
    model = net(text % ("share_mode: PERMISSIVE", 1, "b"))
    model.params["a"][0].data[...] = np.arange(9).reshape(3, 3)
    np.testing.assert_array_equal(model.params["b"][0].data, np.arange(9).reshape(1, 9))
    assert len(model.learnables) == 1


def test_multipliers_of_a_shared_blob_must_agree() -> None:
    with pytest.raises(ModelError, match=r'net.prototxt:\d+: layer "b": .*lr_mult differ: 2 and 3'):
        net(TWICE % ("lr_mult: 2", 3, "b"))
    net(TWICE % ("lr_mult: 3", 3, "b"))


def test_losses_have_weights_also_on_other_layers() -> None:
    model = net(CLASSIFIER.replace('top: "loss"', 'top: "loss" loss_weight: 0.25'))
    model.forward()
    assert model.loss == pytest.approx(0.25 * float(by_hand(model)), rel=1e-6)
    weighted = net(CLASSIFIER.replace('top: "ip"', 'top: "ip" loss_weight: 2'))
    weighted.forward()
    total = float(by_hand(weighted)) + 2 * float(weighted.blobs["ip"].data.sum())
    assert weighted.loss == pytest.approx(total, rel=1e-5)
    assert weighted.outputs == ["loss"]


def test_a_loss_needs_no_top() -> None:
    model = net(CLASSIFIER.replace('top: "loss"', ""))
    model.forward()
    assert model.loss == pytest.approx(float(by_hand(model)), rel=1e-6)
    assert model.outputs == []


def test_no_gradient_goes_where_propagate_down_forbids_it() -> None:
    text = CLASSIFIER.replace('bottom: "conv" top: "ip"', 'bottom: "conv" top: "ip" propagate_down: false')
    model = net(text)
    model.forward()
    model.backward()
    assert np.abs(model.params["ip"][0].diff).max() > 0
    assert not model.params["conv"][0].diff.any()


def test_what_does_not_learn_has_no_gradient() -> None:
    model = net(CLASSIFIER.replace("param { lr_mult: 1 }", "param { lr_mult: 0 }"))
    model.forward()
    model.backward()
    assert not model.params["conv"][0].diff.any()
    assert np.abs(model.params["conv"][1].diff).max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('bottom: "conv" top: "ip"', 'bottom: "cnov" top: "ip"'),
            "no layer before this one makes its bottom 'cnov'; is 'conv' meant",
        ),
        (('bottom: "conv" top: "ip"', 'bottom: "ip" top: "i2"'), "no layer before this one makes its bottom 'ip'"),
        (('bottom: "data" top: "conv"', 'bottom: "loss" top: "conv"'), 'layer "loss" makes it, but stands behind'),
        (
            ('bottom: "conv" top: "ip"', 'bottom: "conv" top: "data"'),
            "its top 'data' is made by layer \"data\" already",
        ),
        (('top: "data" top: "label"', 'top: "data" top: "data"'), "two tops of the name 'data'"),
        (('type: "Convolution"', 'type: "Convolutoin"'), 'unknown type "Convolutoin"; did you mean Convolution'),
        (("decay_mult: 0 }", "decay_mult: 0 } param { lr_mult: 1 }"), "3 param for 2 blobs"),
        (('top: "loss"', 'top: "loss" loss_weight: 1 loss_weight: 2'), "loss_weight"),
        (('top: "loss"', 'top: "loss" propagate_down: true'), "1 propagate_down for 2 bottoms"),
    ],
)
def test_a_wrong_net_is_refused_with_file_line_and_layer(change: tuple[str, str], message: str) -> None:
    assert change[0] in CLASSIFIER
    with pytest.raises(ModelError, match=message) as caught:
        net(CLASSIFIER.replace(*change))
    assert str(caught.value).startswith("net.prototxt:")
    assert 'layer "' in str(caught.value)


def test_weights_survive_a_file_bit_by_bit(tmp_path: Path) -> None:
    model, other = net(CLASSIFIER), net(CLASSIFIER, seed=1)
    for name in ("small.caffemodel", "small.caffemodel.h5"):
        assert (model.params["ip"][0].data != other.params["ip"][0].data).any()
        model.save(tmp_path / name)
        loaded = Net(spec(CLASSIFIER), TEST, tmp_path / name)
        for layer, blobs in model.params.items():
            for mine, theirs in zip(blobs, loaded.params[layer], strict=True):
                np.testing.assert_array_equal(mine.data, theirs.data)


def test_weights_that_do_not_fit_are_refused_with_both_shapes(tmp_path: Path) -> None:
    net(CLASSIFIER).save(tmp_path / "small.caffemodel")
    with pytest.raises(
        CaffeError, match=r'^net.prototxt:10: layer "ip": blob 0 has shape \(5, 12\), but \(4, 12\) in '
    ):
        net(CLASSIFIER.replace("num_output: 4", "num_output: 5")).copy_from(tmp_path / "small.caffemodel")
    with pytest.raises(
        CaffeError, match=r'^net.prototxt:10: layer "ip": number of blobs: 1, but 2 in .*small.caffemodel'
    ):
        net(CLASSIFIER.replace("num_output: 4", "num_output: 4 bias_term: false")).copy_from(
            tmp_path / "small.caffemodel"
        )


def test_layers_that_the_net_does_not_have_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net(CLASSIFIER).save(tmp_path / "small.caffemodel")
    other = net(CLASSIFIER.replace('name: "ip"', 'name: "fresh"'))
    fresh = other.params["fresh"][0].data.copy()
    with caplog.at_level(logging.INFO, "modum.caffe"):
        other.copy_from(tmp_path / "small.caffemodel")
    assert "Ignoring source layer ip" in caplog.text
    np.testing.assert_array_equal(other.params["fresh"][0].data, fresh)
    np.testing.assert_array_equal(other.params["conv"][0].data, net(CLASSIFIER).params["conv"][0].data)


def test_nets_share_weights_both_ways_from_then_on() -> None:
    model, tested = net(CLASSIFIER), net(CLASSIFIER, TEST, seed=1)
    tested.share_with(model)
    model.params["ip"][0].data[...] = 3
    assert (tested.params["ip"][0].data == 3).all()
    with pytest.raises(CaffeError, match='layer "ip" cannot share'):
        net(CLASSIFIER.replace("num_output: 4", "num_output: 5")).share_with(model)


def test_pycaffes_older_order_of_arguments_is_understood(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(CLASSIFIER)
    net(CLASSIFIER).save(tmp_path / "small.caffemodel")
    model = Net(str(tmp_path / "net.prototxt"), str(tmp_path / "small.caffemodel"), TEST)
    assert model.phase == TEST
    np.testing.assert_array_equal(model.params["ip"][0].data, net(CLASSIFIER).params["ip"][0].data)


def test_stages_and_levels_choose_layers() -> None:
    text = CLASSIFIER.replace("include { phase: TEST }", 'include { stage: "score" min_level: 1 }')
    assert "accuracy" not in Net(spec(text), TEST).blobs
    assert "accuracy" not in Net(spec(text), TEST, stages=["score"]).blobs
    assert "accuracy" in Net(spec(text), TEST, stages=["score"], level=1).blobs


NORMALIZED = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 5 dim: 5 } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" }
layer { name: "scale" type: "Scale" bottom: "y" top: "y"
  scale_param { bias_term: true filler { value: 2 } bias_filler { value: 1 } } }
layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }
"""


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_a_fused_normalization_computes_what_two_layers_do(phase: int) -> None:
    x = torch.randn(4, 3, 5, 5).numpy()
    plain, fused = (Net(spec("force_backward: true" + NORMALIZED), phase, seed=0, fuse=fuse) for fuse in (False, True))
    results = []
    for model in (plain, fused):
        model.params["bn"][2].data[...] = 1
        model.params["bn"][1].data[...] = 2
        y = model.forward(x=x)["y"].copy()
        dx = model.backward(y=x**2)["x"].copy()
        results.append([y, dx, *(blob.data for blobs in model.params.values() for blob in blobs)])
        results[-1] += [blob.diff for blob in model.params["scale"]]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        'type: "InnerProduct" bottom: "x" inner_product_param { num_output: 1 weight_filler { type: "xavir" } }',
        'type: "DummyData" dummy_data_param { shape { dim: 2 } data_filler { type: "xavir" } }',
    ],
)
def test_a_wrong_filler_is_told_with_its_layer_before_anything_runs(layer: str) -> None:
    text = f'input: "x" input_shape {{ dim: 1 dim: 2 }}\nlayer {{ name: "l" top: "y" {layer} }}'
    with pytest.raises(ModelError, match=r'net\.prototxt:2: layer "l": filler "xavir" is not known; there are'):
        Net(read_net("net.prototxt", text=text))


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "Accuracy", "HingeLoss", "MultinomialLogisticLoss"])
def test_a_label_that_is_too_large_is_told_with_its_layer(kind: str) -> None:
    text = f"""layer {{ name: "d" type: "DummyData" top: "x" top: "label" dummy_data_param {{
        shape {{ dim: 2 dim: 5 }} shape {{ dim: 2 }}
        data_filler {{ type: "uniform" }} data_filler {{ type: "constant" value: 7 }} }} }}
        layer {{ name: "l" type: "{kind}" bottom: "x" bottom: "label" top: "l" }}"""
    net = Net(read_net("net.prototxt", text=text))
    with pytest.raises(ModelError, match=r'net\.prototxt:4: layer "l": a label or index is too large: .* 7 '):
        net.forward()
