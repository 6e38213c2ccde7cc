"""Select a net's layers by phase, level and stages: the `include` and `exclude` rules."""

from modum.caffe.errors import ModelError
from modum.caffe.proto import NetParameter, NetState, NetStateRule

__all__ = ["filter_net", "meets"]


def filter_net(net: NetParameter, state: NetState) -> NetParameter:
    """Select the layers that a net has in a state.

    A layer with `include` rules is selected if any of them is met; one with `exclude` rules if none is met; one with
    neither always.

    Args:
        net: the whole net.
        state: phase, level and stages.

    Returns:
        A copy of `net` with these layers.

    Raises:
        ModelError: a layer has both kinds of rules.
    """
    filtered = NetParameter()
    filtered.CopyFrom(net)
    del filtered.layer[:]
    for layer in net.layer:
        if layer.include and layer.exclude:
            raise ModelError.at(layer, 'has both "include" and "exclude"; only one of them can be given', "exclude")
        if layer.include:
            there = any(meets(state, rule) for rule in layer.include)
        else:
            there = not any(meets(state, rule) for rule in layer.exclude)
        if there:
            filtered.layer.add().CopyFrom(layer)
    return filtered


def meets(state: NetState, rule: NetStateRule) -> bool:
    """Return whether `state` has the rule's phase, a level between its bounds, all of its stages and no `not_stage`."""
    return not (
        (rule.HasField("phase") and rule.phase != state.phase)
        or (rule.HasField("min_level") and state.level < rule.min_level)
        or (rule.HasField("max_level") and state.level > rule.max_level)
        or not set(rule.stage) <= set(state.stage)
        or set(rule.not_stage) & set(state.stage)
    )
