"""A net's graph: its layers made and connected, with everything checked that can be wrong about it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from modum.caffe.layers.base import make_layer
from modum.caffe.layers.common import Scale
from modum.caffe.layers.normalization import BatchNorm
from modum.caffe.proto import ParamSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from modum.caffe.layers.base import Layer
    from modum.caffe.proto import LayerParameter, NetParameter

__all__ = ["Graph", "Learnable", "Step", "build", "sources"]

Shape = tuple[int, ...]

MULTIPLIERS = ("lr_mult", "decay_mult")


@dataclass(slots=True)
class Step:
    """One layer in the order of the forward pass, and which blobs it reads and makes, by their numbers."""

    layer: Layer
    spec: LayerParameter
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    cut: tuple[int, ...]
    """Positions of bottoms that no gradient goes back through (`propagate_down: false`)."""
    losses: tuple[tuple[int, float], ...]
    """Positions and weights of the tops that are part of the loss."""
    fed: bool
    """An Input layer: the user fills its tops, and nothing is to be computed."""
    seen: list[torch.Size]
    """The shapes of the bottoms that the layer was last told of."""

    @property
    def name(self) -> str:
        """The layer's name in the net file."""
        return str(self.spec.name)


@dataclass(eq=False, slots=True)
class Learnable:
    """A parameter of the net, whichever layers share it."""

    layer: str
    index: int
    """It is this blob of that layer, which is the first one to use it."""
    tensors: list[nn.Parameter]
    """Views of the same numbers, of different shapes where `share_mode: PERMISSIVE` allows it; the owner's first."""
    lr_mult: float
    decay_mult: float
    said: set[str] = field(default_factory=set)
    """Which of the two multipliers some layer has given."""

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter as the layer that made it has it."""
        return self.tensors[0]


@dataclass(slots=True)
class Graph:
    """What `build` makes."""

    steps: list[Step] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """The blobs' names, by number, in the order in which they are made; a top without a name is `(automatic)`."""
    shapes: list[Shape] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    """Blobs that no layer reads, in the alphabetical order that Caffe reports them in."""
    weights: dict[int, float] = field(default_factory=dict)
    """Loss weights by blob, those that are not 0."""
    learnables: list[Learnable] = field(default_factory=list)

    def number(self, name: str) -> int:
        """Return the number of the blob of this name; the first of several."""
        return self.names.index(name)


def build(net: NetParameter, phase: int, generator: torch.Generator | None, *, fuse: bool = False) -> Graph:
    """Make the layers of a filtered net, connect them, and let them make their blobs.

    Args:
        net: with the layers of one phase alone.
        phase: `TRAIN` or `TEST`.
        generator: fills the parameters; None: torch's default one.
        fuse: let a batch normalization do the work of the Scale layer that follows it in place: faster, and the blob
            between them is not to be seen.

    Returns:
        The graph.

    Raises:
        ModelError: an unknown layer, a bottom that no layer makes, a top that two layers make, blobs that cannot be
            shared, or what a layer finds wrong with its bottoms and settings.
    """
    graph = Graph()
    latest: dict[str, int] = {}
    unread: set[str] = set()
    owners: dict[str, Learnable] = {}
    for spec in net.layer:
        layer = make_layer(spec, spec.phase if spec.HasField("phase") else phase)
        bottoms = tuple(_bottom(layer, name, latest, net.layer) for name in spec.bottom)
        unread.difference_update(spec.bottom)
        if len(spec.propagate_down) not in (0, len(bottoms)):
            raise layer.error(f"{len(spec.propagate_down)} propagate_down for {len(bottoms)} bottoms: say one for each")
        tops = tuple(_top(graph, layer, position, latest) for position in range(len(spec.top)))
        unread.update(spec.top)
        before = [graph.shapes[number] for number in bottoms]
        shapes = layer.setup(before, generator)
        for _ in range(len(tops), layer.top_count):  # a loss whose value nobody named
            tops += (len(graph.names),)
            graph.names.append("(automatic)")
            graph.shapes.append(())
        for number, shape in zip(tops, shapes, strict=True):
            graph.shapes[number] = tuple(shape)
        step = Step(
            layer=layer,
            spec=spec,
            bottoms=bottoms,
            tops=tops,
            cut=tuple(position for position, down in enumerate(spec.propagate_down) if not down),
            losses=tuple((position, weight) for position, weight in enumerate(layer.loss_weights) if weight),
            fed=spec.type == "Input",
            seen=[torch.Size(shape) for shape in before],
        )
        graph.weights.update({tops[position]: weight for position, weight in step.losses})
        if step.fed:
            graph.inputs += tops
        graph.steps.append(step)
        _connect_blobs(graph, step, owners)
    if fuse:
        _fuse(graph.steps)
    graph.outputs = sorted((latest[name] for name in unread), key=lambda number: graph.names[number])
    return graph


def _bottom(layer: Layer, name: str, latest: dict[str, int], layers: Iterable[LayerParameter]) -> int:
    if name in latest:
        return latest[name]
    later = next((other for other in layers if name in other.top), None)
    if later is not None and later.name != layer.name:
        hint = f'; layer "{later.name}" makes it, but stands behind'
    elif near := difflib.get_close_matches(name, latest, n=1):
        hint = f"; is {near[0]!r} meant?"
    else:
        hint = ""
    raise layer.error(f"no layer before this one makes its bottom {name!r}{hint}")


def _top(graph: Graph, layer: Layer, position: int, latest: dict[str, int]) -> int:
    spec = layer.spec
    name = spec.top[position]
    if position < len(spec.bottom) and spec.bottom[position] == name:
        return latest[name]  # in place
    if name in spec.top[:position]:
        raise layer.error(f"it has two tops of the name {name!r}")
    if name in latest:
        maker = next(step.name for step in graph.steps if latest[name] in step.tops)
        raise layer.error(f'its top {name!r} is made by layer "{maker}" already: give it another name')
    latest[name] = len(graph.names)
    graph.names.append(name)
    graph.shapes.append(())
    return latest[name]


def _fuse(steps: Sequence[Step]) -> None:
    for index, step in enumerate(steps):
        if isinstance(step.layer, BatchNorm):
            (top,) = step.tops
            reader = next((other for other in steps[index + 1 :] if top in other.bottoms), None)
            if reader is not None and isinstance(reader.layer, Scale) and reader.bottoms == reader.tops == (top,):
                step.layer.absorb(reader.layer)


def _connect_blobs(graph: Graph, step: Step, owners: dict[str, Learnable]) -> None:
    """Take the layer's blobs into the net's parameters, or replace them by those that it shares."""
    layer, spec = step.layer, step.spec
    if len(spec.param) > len(layer.blobs):
        raise layer.error(f"{len(spec.param)} param for {len(layer.blobs)} blobs: leave out the last")
    for index in range(len(layer.blobs)):
        settings = spec.param[index] if index < len(spec.param) else ParamSpec()
        blob = layer.blobs[index]
        # statistics, which a layer keeps by itself, never learn
        lr_mult = settings.lr_mult if blob.requires_grad else 0.0
        blob.requires_grad_(lr_mult != 0)
        owner = owners.get(settings.name) if settings.name else None
        if owner is not None:
            _share(step, index, owner, settings)
            continue
        said = set(filter(settings.HasField, MULTIPLIERS))
        learnable = Learnable(step.name, index, [blob], lr_mult, settings.decay_mult, said)
        graph.learnables.append(learnable)
        if settings.name:
            owners[settings.name] = learnable


def _share(step: Step, index: int, owner: Learnable, settings: ParamSpec) -> None:
    blobs = step.layer.blobs
    blob, shared = blobs[index], owner.tensor
    whose = f'blob {index} shares {settings.name!r} with blob {owner.index} of layer "{owner.layer}"'
    mine, theirs = tuple(blob.shape), tuple(shared.shape)
    if settings.share_mode == ParamSpec.PERMISSIVE:
        if blob.numel() != shared.numel():
            raise step.layer.error(f"{whose}, but its shape {mine} has not as many elements as {theirs}")
    elif mine != theirs:
        raise step.layer.error(f"{whose}, but its shape is {mine} and not {theirs}")
    for name in filter(settings.HasField, MULTIPLIERS):
        value, other = getattr(settings, name), getattr(owner, name)
        if name in owner.said and value != other:
            raise step.layer.error(f"{whose}, but their {name} differ: {value:g} and {other:g}")
        setattr(owner, name, value)
        owner.said.add(name)
    for tensor in owner.tensors:
        tensor.requires_grad_(owner.lr_mult != 0)
    if mine == theirs:
        blobs[index] = shared
    else:
        alias = nn.Parameter(view_as(shared, mine), requires_grad=shared.requires_grad)
        owner.tensors.append(alias)
        blobs[index] = alias


def view_as(tensor: Tensor, shape: Shape) -> Tensor:
    """Return the same numbers in another shape."""
    return tensor.detach().view(shape)


def sources(steps: Sequence[Step]) -> frozenset[int]:
    """Return the blobs that no layer computes from others, and that some layer can send a gradient back to."""
    made = {number for step in steps if not step.bottoms for number in step.tops}
    return frozenset(
        number
        for step in steps
        for position, number in enumerate(step.bottoms)
        if number in made and step.layer.needs_gradient(position)
    )
