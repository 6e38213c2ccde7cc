"""Write nets in Python, with pycaffe's interface: `NetSpec`, and functions that make layers.

net = NetSpec()
net.data, net.label = layers.Data(source="train_lmdb", backend=params.Data.LMDB, batch_size=64, ntop=2)
net.ip = layers.InnerProduct(net.data, num_output=10, weight_filler=dict(type="xavier"))
net.relu = layers.ReLU(net.ip, in_place=True)
net.loss = layers.SoftmaxWithLoss(net.relu, net.label)
print(net.to_proto())
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modum.caffe.proto import LayerParameter, NetParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modum.caffe.proto import Message

__all__ = ["NetSpec", "Top", "layer_function", "to_proto"]

_PARAMETERS: dict[str, str] = {
    described.message_type.name.removesuffix("Parameter"): described.name
    for described in LayerParameter.DESCRIPTOR.fields
    if described.message_type is not None and described.name.endswith("_param")
}
"""The layer field with a type's settings, for types named like its message."""


@dataclass(eq=False, slots=True)
class Made:
    """A layer made by a function call; it gets its name when the whole net is known."""

    type: str
    bottoms: tuple[Top, ...]
    settings: dict[str, Any]
    in_place: bool
    tops: tuple[Top, ...] = field(init=False)


@dataclass(eq=False, slots=True)
class Top:
    """A top of a layer, which functions take as a bottom."""

    layer: Made
    index: int

    def to_proto(self) -> NetParameter:
        """Return the net that makes this top."""
        return to_proto(self)


def layer_function(kind: str) -> Callable[..., Any]:
    """Return the function that makes layers of a type, such as `layers.Convolution`.

    It takes the bottoms, then settings by keyword: of the type itself (`num_output=20`) or of any layer
    (`param=[dict(lr_mult=1), dict(lr_mult=2)]`, `include=dict(phase=TEST)`), messages as dictionaries. It also takes
    `ntop` (1), the number of tops, and `in_place`. It returns the top, a tuple of several, or the layer if it has none.
    """

    def make(*bottoms: Top, ntop: int = 1, in_place: bool = False, **settings: Any) -> Any:
        for index, bottom in enumerate(bottoms):
            if not isinstance(bottom, Top):
                raise TypeError(f"{kind}: input {index} is a {type(bottom).__name__} and not the top of a layer")
        made = Made(kind, bottoms, settings, in_place)
        made.tops = tuple(Top(made, index) for index in range(ntop))
        if ntop == 0:
            return made
        return made.tops[0] if ntop == 1 else made.tops

    return make


def to_proto(*tops: Top | Made) -> NetParameter:
    """Return the net that makes these tops; names are derived from the layers' types."""
    return _write(tops, {})


class NetSpec:
    """A net whose tops get their names from the attributes (or items, for other names) to which they are assigned."""

    tops: dict[str, Any]

    def __init__(self) -> None:
        super().__setattr__("tops", {})

    def __setattr__(self, name: str, top: Any) -> None:
        self.tops[name] = top

    def __getattr__(self, name: str) -> Any:
        try:
            return self.tops[name]
        except KeyError:
            raise AttributeError(f"the net has no top {name!r}") from None

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def __setitem__(self, name: str, top: Any) -> None:
        self.tops[name] = top

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def to_proto(self) -> NetParameter:
        """Build the net as a message; `str()` of it is the text of a prototxt file.

        Returns:
            The message, which `Net` and `Solver` take.

        Raises:
            ValueError: a layer has a setting that does not exist, or a value that the setting cannot have.
        """
        return _write(self.tops.values(), {id(top): name for name, top in self.tops.items()})


def _write(tops: Any, names: Mapping[int, str]) -> NetParameter:
    """Return the layers that make `tops`, each after those that it needs; `names` has names by `id`."""
    net = NetParameter()
    written: dict[int, LayerParameter] = {}
    used = Counter[str]()

    def name_of(thing: Top | Made, kind: str) -> str:
        if id(thing) in names:
            return names[id(thing)]
        used[kind] += 1
        return f"{kind}{used[kind]}"

    def write(made: Made) -> LayerParameter:
        if id(made) in written:
            return written[id(made)]
        bottoms = [write(bottom.layer).top[bottom.index] for bottom in made.bottoms]
        spec = written[id(made)] = LayerParameter(type=made.type, bottom=bottoms)
        spec.name = name_of(made.tops[0] if made.tops else made, made.type)
        spec.top.extend(bottoms if made.in_place else [spec.name] * bool(made.tops))
        if not made.in_place:
            spec.top.extend(name_of(top, made.type) for top in made.tops[1:])
        for name, value in made.settings.items():
            own = _PARAMETERS.get(made.type, "")
            special = not name.endswith("param") and own and name in getattr(spec, own).DESCRIPTOR.fields_by_name
            try:
                _assign(getattr(spec, own) if special else spec, name, value)
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(f'layer "{spec.name}" ({made.type}): {name}={value!r}: {error}') from error
        net.layer.add().CopyFrom(spec)
        return spec

    for top in tops:
        write(top.layer if isinstance(top, Top) else top)
    return net


def _assign(message: Message, name: str, value: Any) -> None:
    """Set a field: messages from dictionaries, repeated fields from lists or single values."""
    if name not in message.DESCRIPTOR.fields_by_name:
        raise ValueError(f"{message.DESCRIPTOR.name} has no field {name!r}")
    target = getattr(message, name)
    if hasattr(target, "extend"):
        values = list(value) if isinstance(value, list | tuple) else [value]
        if values and isinstance(values[0], dict):
            for one in values:
                element = target.add()
                for key, inner in one.items():
                    _assign(element, key, inner)
        else:
            target.extend(values)
    elif isinstance(value, dict):
        target.SetInParent()
        for key, inner in value.items():
            _assign(target, key, inner)
    else:
        setattr(message, name, value)
