"""A pipeline stage that Keras computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from modum.keras.backends import backend
from modum.keras.graph import Graph, Node, Tensor
from modum.pipeline import Stage, Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from modum.pipeline import Cuts

__all__ = ["KerasStage", "Outline", "Part", "Remade"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What a stage must know about the model besides its own layers."""

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
    def of(cls, graph: Graph, given: tuple[int, ...], returned: tuple[int, ...]) -> Outline:
        """Return the outline of the part of a graph that takes and returns these tensors, given by number."""
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


class Part(keras.Model):  # type: ignore[misc]
    """Consecutive layers of a model, called as in the model."""

    def __init__(self, nodes: Sequence[Node], given: Sequence[int], returned: Sequence[int]) -> None:
        super().__init__(name="stage")
        self._calls = tuple(nodes)
        self._given = tuple(given)
        self._returned = tuple(returned)
        layers = {id(node.operation): node.operation for node in nodes if isinstance(node.operation, keras.Layer)}
        self.parts = list(layers.values())
        self.built = True

    def call(self, tensors: Sequence[Any], training: bool | None = None) -> list[Any]:
        """Return the outputs for the given tensors."""
        values = dict(zip(self._given, tensors, strict=True))
        for node in self._calls:
            values.update(zip(node.outputs, node.call(values, training), strict=True))
        return [values[number] for number in self._returned]

    def named_variables(self) -> list[tuple[str, Any]]:
        """Return all variables, with names unique in the whole model and equal in all its copies."""
        return [pair for layer in self.parts for pair in named_variables_of(layer)]

    def run(
        self,
        variables: list[Any],
        state: list[Any],
        tensors: list[Any],
        judge: Callable[[list[Any]], Any] | None = None,
    ) -> tuple[list[Any], list[Any], Any]:
        """Compute without changing anything.

        Args:
            variables: values of the trained variables.
            state: values of the untrained ones.
            tensors: inputs of the part.
            judge: computes the loss from the outputs; None: the loss is the sum of the layers' own losses, or None.

        Returns:
            The outputs, the new values of the untrained variables, and the loss.
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


class Remade:
    """Makes the whole model again from its config, compiled in the same way."""

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
        model.compile(**{**self._training, "optimizer": fresh_optimizer(self._training["optimizer"])})
        return model


class KerasStage(Stage):
    """Layers of a Keras model as a stage of a pipeline; made by `partition`."""

    def __init__(
        self,
        cuts: Cuts,
        outline: Outline,
        part: Part,
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
        self._backend = backend()
        part.output_names = list(outline.output_names)
        options = training if self.last else {"optimizer": training["optimizer"]}
        part.compile(**options, jit_compile=False)
        self.optimizer = part.optimizer
        """This stage's optimizer; set its `learning_rate` while training as usual, on every worker."""
        self.optimizer.build(part.trainable_variables)
        self._trained = self._backend.compiled(self._judged if self.last else self._returned)
        self._inferred = self._backend.compiled(lambda tensors: part(tensors, training=False))
        self._measured = self._backend.compiled(self._metrics)
        self._ways_back: dict[int, Callable[[Sequence[Any]], list[Any]]] = {}
        self._extra: dict[int, list[Any]] = {}
        self._gradients: list[Any] | None = None

    # ---- Stage

    def forward(self, number: int, inputs: Any, labels: Any = None, weight: float = 1.0) -> list[NDArray[Any]]:
        tensors = self._tensors(inputs)
        outline, part = self._outline, self.part
        differentiated = [tensors[outline.given.index(tensor)] for tensor in outline.gradients_in]
        others = [tensors[place] for place, t in enumerate(outline.given) if t not in outline.gradients_in]
        variables = self._backend.kept(part.trainable_variables, stash=self.stash and not self.last)
        state = self._backend.kept(part.non_trainable_variables, stash=False)
        factor = keras.ops.convert_to_tensor(weight, "float32")
        wanted = keras.tree.map_structure(keras.ops.convert_to_tensor, labels) if self.last else None
        outputs, (returned, state, loss), way_back = self._backend.forward(
            self._trained, variables, differentiated, state, others, factor, wanted
        )
        for variable, value in zip(part.non_trainable_variables, state, strict=True):
            variable.assign(value)
        self._ways_back[number] = way_back
        if self.last:
            self._extra[number] = [keras.ops.ones_like(output) for output in outputs]
            return [self._told(wanted, returned, loss)]
        self._extra[number] = [keras.ops.ones_like(extra) for extra in outputs[len(outline.gradients_out) :]]
        return [host_array(tensor) for tensor in returned]

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
        return [host_array(gradient) for gradient in found[count:]]

    def update(self) -> None:
        assert self._gradients is not None, "an update without a backward pass"
        if self._gradients:
            self._backend.apply(self.optimizer, self._gradients, self.part.trainable_variables)
        self._gradients = None

    def evaluate(self, inputs: Any, labels: Any = None) -> list[NDArray[Any]]:
        returned = self._inferred(self._tensors(inputs))
        if not self.last:
            return [host_array(tensor) for tensor in returned]
        wanted = keras.tree.map_structure(keras.ops.convert_to_tensor, labels)
        loss = self.part.compute_loss(None, wanted, self._formed(returned), training=False)
        return [self._told(wanted, returned, loss)]

    @property
    def versions(self) -> int:
        return 1 + (len(self._ways_back) if self.stash and not self.last else 0)

    def weights(self) -> list[Weight]:
        trainable = {id(variable) for variable in self.part.trainable_variables}
        return [
            Weight(name=name, array=host_array(variable.value), trainable=id(variable) in trainable)
            for name, variable in self.part.named_variables()
        ]

    def assign(self, weights: Mapping[str, NDArray[Any]]) -> None:
        for name, variable in self.part.named_variables():
            if name in weights:
                variable.assign(weights[name])

    def assemble(self, weights: Mapping[str, NDArray[Any]]) -> Any:
        """Return the whole model; its `save("model.keras")` writes a file that plain Keras opens."""
        assert self._whole is not None, "only the first stage can make the whole model"
        model = self._whole()
        for layer in {id(node.operation): node.operation for node in Graph.of(model).nodes}.values():
            for name, variable in named_variables_of(layer):
                variable.assign(weights[name])
        model.optimizer.build(model.trainable_variables)  # Keras warns about a file without its slots
        return model

    # ---- inside

    def _tensors(self, inputs: Any) -> list[Any]:
        """Return the input tensors: the user's inputs on the first stage, else those received."""
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
        """Return what to differentiate: the outputs that have gradients, and the layers' losses."""
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
        """Return what to differentiate: the loss."""

        def judge(returned: list[Any]) -> Any:
            return keras.ops.cast(self.part.compute_loss(None, labels, self._formed(returned)), "float32")

        returned, state, loss = self.part.run(variables, state, self._ordered(inputs, others), judge)
        return [weight * loss], (returned, state, loss)

    def _ordered(self, inputs: list[Any], others: list[Any]) -> list[Any]:
        """Return the input tensors in order, from those that have gradients and the others."""
        chosen, rest = iter(inputs), iter(others)
        return [next(chosen if t in self._outline.gradients_in else rest) for t in self._outline.given]

    def _formed(self, returned: Sequence[Any]) -> Any:
        """Return the outputs in the model's own structure."""
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
        return np.array([float(host_array(value)) for value in (loss, *metrics.values())])


def fresh_optimizer(optimizer: Any) -> Any:
    return type(optimizer).from_config(optimizer.get_config())


def named_variables_of(layer: Any) -> list[tuple[str, Any]]:
    variables = getattr(layer, "variables", [])
    return [(f"{layer.name}/{place}/{variable.name}", variable) for place, variable in enumerate(variables)]


def host_array(tensor: Any) -> NDArray[Any]:
    array: NDArray[Any] = keras.ops.convert_to_numpy(tensor)
    return array
