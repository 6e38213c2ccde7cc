"""Which layers a net has in a state."""

import pytest

from modum.caffe.errors import ModelError, where
from modum.caffe.filters import filter_net
from modum.caffe.proto import TEST, TRAIN, NetState
from modum.caffe.prototxt import read_net


def present(rules: str, **state: object) -> bool:
    """Whether a layer with `rules` is there in `state`."""
    net = read_net("n", text=f'layer {{ name: "other" }} layer {{ name: "x" {rules} }}')
    filtered = filter_net(net, NetState(**state))
    names = [layer.name for layer in filtered.layer]
    assert names[0] == "other"
    assert len(net.layer) == 2
    return names[1:] == ["x"]


@pytest.mark.parametrize(
    ("rules", "state", "there"),
    [
        ("", {"phase": TRAIN}, True),
        ("include { phase: TRAIN }", {"phase": TRAIN}, True),
        ("include { phase: TRAIN }", {"phase": TEST}, False),
        ("exclude { phase: TRAIN }", {"phase": TRAIN}, False),
        ("exclude { phase: TRAIN }", {"phase": TEST}, True),
        ("include { phase: TRAIN } include { phase: TEST }", {"phase": TEST}, True),
        ("exclude { phase: TRAIN } exclude { phase: TEST }", {"phase": TEST}, False),
        ("include { min_level: 2 }", {"level": 1}, False),
        ("include { min_level: 2 }", {"level": 2}, True),
        ("include { max_level: 2 }", {"level": 3}, False),
        ("include { max_level: -1 }", {"level": 0}, False),
        ("include { min_level: 1 max_level: 2 }", {"level": 2}, True),
        ('include { stage: "a" stage: "b" }', {"stage": ["a"]}, False),
        ('include { stage: "a" stage: "b" }', {"stage": ["c", "b", "a"]}, True),
        ('include { stage: "a" } include { stage: "b" }', {"stage": ["b"]}, True),
        ('include { not_stage: "a" }', {"stage": ["b"]}, True),
        ('include { not_stage: "a" not_stage: "b" }', {"stage": ["b"]}, False),
        ('exclude { stage: "a" }', {"stage": []}, True),
        ('include { phase: TEST stage: "a" }', {"phase": TRAIN, "stage": ["a"]}, False),
        ("include { }", {}, True),
        ("exclude { }", {}, False),
    ],
)
def test_a_layer_is_there_as_its_rules_say(rules: str, state: dict[str, object], there: bool) -> None:
    assert present(rules, **state) is there


def test_the_other_fields_of_the_net_and_the_places_of_layers_stay() -> None:
    net = read_net("n", text='name: "net"\nforce_backward: true\nlayer {}\nlayer { exclude { phase: TEST } }')
    filtered = filter_net(net, NetState(phase=TEST))
    assert (filtered.name, filtered.force_backward, len(filtered.layer)) == ("net", True, 1)
    assert where(filtered.layer[0]) == "n:3"


def test_include_and_exclude_together_are_an_error() -> None:
    with pytest.raises(ModelError, match=r'^n:2: layer "x": has both "include" and "exclude"'):
        present("\nexclude { phase: TRAIN } include { phase: TEST }")
