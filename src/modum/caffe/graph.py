"""Build a net's graph: make, connect and check its layers."""

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
    """A layer in the order of the forward pass, and the blobs that it reads and makes, by number."""

    layer: Layer
    spec: LayerParameter
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    cut: tuple[int, ...]
    """Positions of bottoms through which no gradient goes back (`propagate_down: false`)."""
    losses: tuple[tuple[int, float], ...]
    """Positions and weights of the tops that are part of the loss."""
    fed: bool
    """Whether it is an Input layer: the user fills its tops, and there is nothing to compute."""
    seen: list[torch.Size]
    """The bottoms' shapes at the layer's last reshape."""

    @property
    def name(self) -> str:
        """The layer's name in the net file."""
        return str(self.spec.name)


@dataclass(eq=False, slots=True)
class Learnable:
    """A parameter of the net, possibly shared by several layers."""

    layer: str
    index: int
    """Its index among the blobs of that layer, the first to use it."""
    tensors: list[nn.Parameter]
    """Views of the same values, of different shapes if `share_mode: PERMISSIVE` allows it; the owner's first."""
    lr_mult: float
    decay_mult: float
    said: set[str] = field(default_factory=set)
    """Which of the two multipliers a layer has set."""

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter as its owner has it."""
        return self.tensors[0]


@dataclass(slots=True)
class Graph:
    """A built graph, from `build`."""

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
        net: a net with only the layers of one phase.
        phase: `TRAIN` or `TEST`.
        generator: fills the parameters; None: torch's default one.
        fuse: let a batch normalization do the work of an in-place Scale layer that follows it: faster, but the blob
            between them is not visible.

    Returns:
        The graph.

    Raises:
        ModelError: a layer is unknown, or its bottoms or settings are wrong; no layer makes a bottom, or two make the
            same top; or blobs cannot be shared.
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
        for _ in range(len(tops), layer.top_count):  # a loss without a named value
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
    """Add the layer's blobs to the net's parameters, or replace them by shared ones."""
    layer, spec = step.layer, step.spec
    if len(spec.param) > len(layer.blobs):
        raise layer.error(f"{len(spec.param)} param for {len(layer.blobs)} blobs: leave out the last")
    for index in range(len(layer.blobs)):
        settings = spec.param[index] if index < len(spec.param) else ParamSpec()
        blob = layer.blobs[index]
        # statistics, which the layer itself updates, never learn
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
    """Return a view with the same values in another shape."""
    return tensor.detach().view(shape)


def sources(steps: Sequence[Step]) -> frozenset[int]:
    """Return the blobs that no layer computes from others, but to which some layer can send a gradient back."""
    made = {number for step in steps if not step.bottoms for number in step.tops}
    return frozenset(
        number
        for step in steps
        for position, number in enumerate(step.bottoms)
        if number in made and step.layer.needs_gradient(position)
    )
