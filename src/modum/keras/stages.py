"""Keras models cut into pipeline stages: Sequential and Functional ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np

from modum.keras.differentiation import differentiation
from modum.keras.graph import Graph, Node, Tensor
from modum.pipeline import Layer, Stage, Weight, agree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from modum.job import Job
    from modum.pipeline import Cuts

__all__ = ["KerasStage", "partition"]

_TIMINGS: Final = 4
"""The first one warms up, and the fastest of the others counts."""
_SAMPLES: Final = 32
"""In the batch of zeros by which layers are measured if the user gives none."""


def partition(
    model: Any,
    job: Job,
    *,
    stages: int | None = None,
    at: Sequence[str] | None = None,
    sample: Any = None,
    name: str = "pipeline",
) -> KerasStage:
    """This worker's stage of a compiled model: layers made anew from their configs, and no others.

    The model is not changed. Optimizer, loss and metrics are those that it was compiled with.

    Args:
        model: a built Sequential or Functional model, or better a function that makes it: then nothing keeps the other
            layers in memory, once this returns.
        job: from `modum.connect`; rank r is stage r modulo stages.
        stages: how many; default: one a worker.
        at: names of the layers that begin the stages 1, 2, ...; default: balanced by the time that each layer takes
            for ``sample`` on the first worker, and by the bytes of its variables.
        sample: inputs of the model, of one batch of the usual size, for measuring; needed only where a shape has
            unknown extents beside that of the batch.
        name: of the pipeline in the box; give `Pipeline` the same if you give one.

    Raises:
        ValueError: the model is not built or not compiled, a name in ``at`` is no layer, the model has too few layers,
            or a layer cannot be made from its config.
        TypeError: the model is neither Sequential nor Functional.
        MismatchError: workers differ in the model.
    """
    build: Callable[[], Any] | None = None
    if not isinstance(model, keras.Model) and callable(model):
        build, model = model, model()
    graph = Graph.of(model)
    training = _training_of(model)
    cuts = agree(
        [node.name for node in graph.nodes],
        job,
        stages=stages,
        at=at,
        forbidden=graph.shared(),
        measure=lambda: _measure(graph, sample),
        name=name,
    )
    lo, hi = cuts.own
    nodes = _rebuilt(graph.nodes[lo:hi])
    given, returned = graph.crossing(lo), graph.crossing(hi)
    if cuts.index == 0:
        given = graph.inputs
    part = _Part(nodes, given, returned)
    whole = None if cuts.index > 0 else build or _Remade(model, graph, training)
    return KerasStage(cuts, _Outline.of(graph, given, returned), part, training, whole)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outline:
    """What a stage needs to know of the model beside its own layers."""

    given: tuple[int, ...]
    returned: tuple[int, ...]
    gradients_in: tuple[int, ...]
    """The given tensors whose gradients go back."""
    gradients_out: tuple[int, ...]
    """The returned tensors whose gradients come."""
    dtypes: dict[int, str]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    output_form: Any

    @classmethod
    def of(cls, graph: Graph, given: tuple[int, ...], returned: tuple[int, ...]) -> _Outline:
        return cls(
            given=given,
            returned=returned,
            gradients_in=graph.differentiable(given),
            gradients_out=graph.differentiable(returned),
            dtypes=graph.dtypes,
            input_names=graph.input_names,
            output_names=graph.output_names,
            output_form=graph.output_form,
        )


class _Part(keras.Model):  # type: ignore[misc]
    """Consecutive layers of a model, called as the model calls them."""

    def __init__(self, nodes: Sequence[Node], given: Sequence[int], returned: Sequence[int]) -> None:
        super().__init__(name="stage")
        self._calls = tuple(nodes)
        self._given = tuple(given)
        self._returned = tuple(returned)
        layers = {id(node.operation): node.operation for node in nodes if isinstance(node.operation, keras.Layer)}
        self.parts = list(layers.values())
        self.built = True

    def call(self, tensors: Sequence[Any], training: bool | None = None) -> list[Any]:
        """The returned tensors for the given ones."""
        values = dict(zip(self._given, tensors, strict=True))
        for node in self._calls:
            values.update(zip(node.outputs, node.call(values, training), strict=True))
        return [values[number] for number in self._returned]

    def named_variables(self) -> list[tuple[str, Any]]:
        """All variables, with names that are unique in the whole model and alike in all its copies."""
        return [pair for layer in self.parts for pair in _named(layer)]

    def run(
        self,
        variables: list[Any],
        state: list[Any],
        tensors: list[Any],
        judge: Callable[[list[Any]], Any] | None = None,
    ) -> tuple[list[Any], list[Any], Any]:
        """Outputs, new values of the untrained variables, and a loss; nothing is changed.

        The loss is what ``judge`` says of the outputs; without it, the sum of the losses of the layers, or None.
        """
        mapping = [
            *zip(self.trainable_variables, variables, strict=True),
            *zip(self.non_trainable_variables, state, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            outputs = self(tensors, training=True)
            losses = [keras.ops.sum(keras.ops.cast(loss, "float32")) for loss in self.losses] if judge is None else []
            loss = judge(outputs) if judge is not None else sum(losses) if losses else None
        return outputs, [scope.get_current_value(variable) for variable in self.non_trainable_variables], loss


class _Remade:
    """Makes the whole model again from its config, and compiles it alike."""

    def __init__(self, model: Any, graph: Graph, training: dict[str, Any]) -> None:
        self._classes = {type(node.operation).__name__: type(node.operation) for node in graph.nodes}
        self._kind = type(model)
        self._config = model.get_config()
        self._shapes = model.get_build_config()
        self._training = training

    def __call__(self) -> Any:
        with keras.saving.custom_object_scope(self._classes):
            model = self._kind.from_config(self._config)
            if not model.built:
                model.build_from_config(self._shapes)
        model.compile(**{**self._training, "optimizer": _fresh(self._training["optimizer"])})
        return model


class KerasStage(Stage):
    """Layers of a Keras model as a stage of a pipeline; made by `partition`."""

    def __init__(
        self,
        cuts: Cuts,
        outline: _Outline,
        part: _Part,
        training: dict[str, Any],
        whole: Callable[[], Any] | None,
    ) -> None:
        self.index = cuts.index
        self.stages = cuts.stages
        self.layers = cuts.layers[slice(*cuts.own)]
        self.framework = f"keras on {keras.backend.backend()}"
        self.results = ("loss",)
        self.part = part
        """This worker's layers, as a Keras model of their own."""
        self._outline = outline
        self._whole = whole
        self._differentiation = differentiation()
        part.output_names = list(outline.output_names)
        options = training if self.last else {"optimizer": training["optimizer"]}
        part.compile(**options, jit_compile=False)
        self.optimizer = part.optimizer
        """Set its ``learning_rate`` while training as ever, on every worker."""
        self.optimizer.build(part.trainable_variables)
        self._trained = self._differentiation.compiled(self._judged if self.last else self._returned)
        self._inferred = self._differentiation.compiled(lambda tensors: part(tensors, training=False))
        self._measured = self._differentiation.compiled(self._metrics)
        self._ways_back: dict[int, Callable[[Sequence[Any]], list[Any]]] = {}
        self._extra: dict[int, list[Any]] = {}
        self._gradients: list[Any] | None = None

    # ---- Stage

    def forward(self, number: int, inputs: Any, labels: Any = None, weight: float = 1.0) -> list[NDArray[Any]]:
        tensors = self._tensors(inputs)
        outline, part = self._outline, self.part
        differentiated = [tensors[outline.given.index(tensor)] for tensor in outline.gradients_in]
        others = [tensors[place] for place, t in enumerate(outline.given) if t not in outline.gradients_in]
        variables = self._differentiation.kept(part.trainable_variables, stash=self.stash and not self.last)
        state = self._differentiation.kept(part.non_trainable_variables, stash=False)
        factor = keras.ops.convert_to_tensor(weight, "float32")
        wanted = keras.tree.map_structure(keras.ops.convert_to_tensor, labels) if self.last else None
        outputs, (returned, state, loss), way_back = self._differentiation.forward(
            self._trained, variables, differentiated, state, others, factor, wanted
        )
        for variable, value in zip(part.non_trainable_variables, state, strict=True):
            variable.assign(value)
        self._ways_back[number] = way_back
        if self.last:
            self._extra[number] = [keras.ops.ones_like(output) for output in outputs]
            return [self._told(wanted, returned, loss)]
        self._extra[number] = [keras.ops.ones_like(extra) for extra in outputs[len(outline.gradients_out) :]]
        return [_array(tensor) for tensor in returned]

    def backward(self, number: int, gradients: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        outline = self._outline
        given = [
            keras.ops.convert_to_tensor(array, outline.dtypes[tensor])
            for array, tensor in zip(gradients, () if self.last else outline.gradients_out, strict=True)
        ]
        found = self._ways_back.pop(number)([*given, *self._extra.pop(number)])
        count = len(self.part.trainable_variables)
        own = found[:count]
        if self._gradients is not None:
            own = [keras.ops.add(sum_, gradient) for sum_, gradient in zip(self._gradients, own, strict=True)]
        self._gradients = own
        return [_array(gradient) for gradient in found[count:]]

    def update(self) -> None:
        assert self._gradients is not None, "an update without a backward pass"
        if self._gradients:
            self._differentiation.apply(self.optimizer, self._gradients, self.part.trainable_variables)
        self._gradients = None

    def evaluate(self, inputs: Any, labels: Any = None) -> list[NDArray[Any]]:
        returned = self._inferred(self._tensors(inputs))
        if not self.last:
            return [_array(tensor) for tensor in returned]
        wanted = keras.tree.map_structure(keras.ops.convert_to_tensor, labels)
        loss = self.part.compute_loss(None, wanted, self._formed(returned), training=False)
        return [self._told(wanted, returned, loss)]

    @property
    def versions(self) -> int:
        return 1 + (len(self._ways_back) if self.stash and not self.last else 0)

    def weights(self) -> list[Weight]:
        trainable = {id(variable) for variable in self.part.trainable_variables}
        return [
            Weight(name=name, array=_array(variable.value), trainable=id(variable) in trainable)
            for name, variable in self.part.named_variables()
        ]

    def assign(self, weights: Mapping[str, NDArray[Any]]) -> None:
        for name, variable in self.part.named_variables():
            if name in weights:
                variable.assign(weights[name])

    def assemble(self, weights: Mapping[str, NDArray[Any]]) -> Any:
        """The whole model; its ``save("model.keras")`` makes a file that opens in plain Keras."""
        assert self._whole is not None, "only the first stage can make the whole model"
        model = self._whole()
        for layer in {id(node.operation): node.operation for node in Graph.of(model).nodes}.values():
            for name, variable in _named(layer):
                variable.assign(weights[name])
        model.optimizer.build(model.trainable_variables)  # a file without its slots would be complained of
        return model

    # ---- inside

    def _tensors(self, inputs: Any) -> list[Any]:
        """The given tensors: of the user's inputs on the first stage, else as they came."""
        if isinstance(inputs, dict):
            inputs = [inputs[name] for name in self._outline.input_names]
        flat = keras.tree.flatten(inputs) if self.first else inputs
        if len(flat) != len(self._outline.given):
            raise ValueError(
                f"stage {self.index} got {len(flat)} inputs, and takes {len(self._outline.given)}: "
                f"{', '.join(self._outline.input_names)}"
            )
        dtypes = [self._outline.dtypes[tensor] for tensor in self._outline.given]
        return [keras.ops.convert_to_tensor(x, dtype) for x, dtype in zip(flat, dtypes, strict=True)]

    def _returned(
        self, variables: list[Any], inputs: list[Any], state: list[Any], others: list[Any], weight: Any, labels: Any
    ) -> tuple[list[Any], Any]:
        """What is differentiated: the returned tensors that have gradients, and the losses of the layers."""
        returned, state, loss = self.part.run(variables, state, self._ordered(inputs, others))
        chosen = [
            tensor
            for number, tensor in zip(self._outline.returned, returned, strict=True)
            if number in self._outline.gradients_out
        ]
        return [*chosen, *([] if loss is None else [weight * loss])], (returned, state, None)

    def _judged(
        self, variables: list[Any], inputs: list[Any], state: list[Any], others: list[Any], weight: Any, labels: Any
    ) -> tuple[list[Any], Any]:
        """What is differentiated: the loss."""

        def judge(returned: list[Any]) -> Any:
            return keras.ops.cast(self.part.compute_loss(None, labels, self._formed(returned)), "float32")

        returned, state, loss = self.part.run(variables, state, self._ordered(inputs, others), judge)
        return [weight * loss], (returned, state, loss)

    def _ordered(self, inputs: list[Any], others: list[Any]) -> list[Any]:
        """The given tensors, from those that are differentiated by and the others."""
        chosen, rest = iter(inputs), iter(others)
        return [next(chosen if t in self._outline.gradients_in else rest) for t in self._outline.given]

    def _formed(self, returned: Sequence[Any]) -> Any:
        """The model's outputs as the model returns them."""
        values = dict(zip(self._outline.returned, returned, strict=True))

        def fill(part: Any) -> Any:
            return values[part.number] if isinstance(part, Tensor) else part

        formed = keras.tree.map_structure(fill, self._outline.output_form)
        return formed[0] if isinstance(formed, list | tuple) and len(formed) == 1 else formed

    def _metrics(self, labels: Any, returned: Sequence[Any]) -> dict[str, Any]:
        self.part.reset_metrics()
        found = self.part.compute_metrics(None, labels, self._formed(returned))
        return {name: value for name, value in found.items() if name != "loss"}

    def _told(self, labels: Any, returned: Sequence[Any], loss: Any) -> NDArray[np.float64]:
        metrics = self._measured(labels, returned)
        self.results = ("loss", *metrics)
        return np.array([float(_array(value)) for value in (loss, *metrics.values())])


def _training_of(model: Any) -> dict[str, Any]:
    """What the model was compiled with: optimizer, loss, loss weights and metrics."""
    compiled = getattr(model, "_compile_config", None)
    if compiled is None or compiled.config.get("loss") is None:
        raise ValueError("the model has no optimizer and loss: call model.compile(optimizer=..., loss=...) first")
    training = {
        key: compiled.config[key]
        for key in ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")
        if key in compiled.config
    }
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "the model's optimizer scales the loss by what happens in all layers (mixed_float16), but each stage has "
            "an optimizer of its own: use mixed_bfloat16 or float32"
        )
    # one that is built belongs to all variables of the model
    return {**training, "optimizer": _fresh(optimizer) if optimizer.built else optimizer}


def _fresh(optimizer: Any) -> Any:
    return type(optimizer).from_config(optimizer.get_config())


def _rebuilt(nodes: Sequence[Node]) -> list[Node]:
    """The nodes with layers of their own; one that is called twice is made once."""
    made: dict[int, Any] = {}
    found = []
    for node in nodes:
        if id(node.operation) not in made:
            made[id(node.operation)] = node.rebuilt().operation
        found.append(
            Node(
                name=node.name,
                operation=made[id(node.operation)],
                args=node.args,
                kwargs=node.kwargs,
                inputs=node.inputs,
                outputs=node.outputs,
            )
        )
    return found


def _named(layer: Any) -> list[tuple[str, Any]]:
    variables = getattr(layer, "variables", [])
    return [(f"{layer.name}/{place}/{variable.name}", variable) for place, variable in enumerate(variables)]


def _array(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = keras.ops.convert_to_numpy(tensor)
    return array


def _measure(graph: Graph, sample: Any) -> list[Layer]:
    """What each layer costs for the sample, forward and backward. Nothing of the model is changed."""
    way = differentiation()
    values = dict(zip(graph.inputs, _sample(graph, sample), strict=True))
    costs = []
    for node in graph.nodes:
        given = tuple(dict.fromkeys(node.inputs))
        part = _Part([node], given, node.outputs)
        floating = ["float" in graph.dtypes[tensor] for tensor in given]
        answered = ["float" in graph.dtypes[tensor] for tensor in node.outputs]

        def run(
            variables: list[Any],
            inputs: list[Any],
            state: list[Any],
            others: list[Any],
            part: _Part = part,
            floating: list[bool] = floating,
            answered: list[bool] = answered,
        ) -> tuple[list[Any], Any]:
            chosen, rest = iter(inputs), iter(others)
            outputs = part.run(variables, state, [next(chosen if chooses else rest) for chooses in floating])[0]
            return [output for output, counts in zip(outputs, answered, strict=True) if counts], outputs

        seconds = []
        for _ in range(_TIMINGS):
            variables = way.kept(part.trainable_variables, stash=True)
            state = way.kept(part.non_trainable_variables, stash=True)
            inputs = [values[tensor] for tensor, chooses in zip(given, floating, strict=True) if chooses]
            others = [values[tensor] for tensor, chooses in zip(given, floating, strict=True) if not chooses]
            start = time.perf_counter()
            outputs, everything, back = way.forward(run, variables, inputs, state, others)
            back([keras.ops.ones_like(output) for output in outputs])
            seconds.append(time.perf_counter() - start)
        values.update(
            (number, keras.ops.stop_gradient(tensor)) for number, tensor in zip(node.outputs, everything, strict=True)
        )
        nbytes = sum(_array(variable.value).nbytes for variable in part.trainable_variables)
        costs.append(Layer(name=node.name, seconds=min(seconds[1:]), nbytes=nbytes))
    return costs


def _sample(graph: Graph, sample: Any) -> list[Any]:
    dtypes = [graph.dtypes[tensor] for tensor in graph.inputs]
    if sample is None:
        shapes = [graph.shapes[tensor] for tensor in graph.inputs]
        if any(extent is None for shape in shapes for extent in shape[1:]):
            raise ValueError(
                f"the model's inputs have shapes of unknown extent, {', '.join(map(str, shapes))}: give partition "
                "sample=..., the inputs of one batch to measure the layers by, or at=[...], where to cut"
            )
        sample = [np.zeros((_SAMPLES, *shape[1:])) for shape in shapes]
    if isinstance(sample, dict):
        sample = [sample[name] for name in graph.input_names]
    flat = keras.tree.flatten(sample)
    return [keras.ops.convert_to_tensor(x, dtype) for x, dtype in zip(flat, dtypes, strict=True)]
