"""A Keras model as a sequence of layers: each one's inputs and outputs, and the tensors that cross a cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Graph", "Node", "Tensor"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the model, identified by its number."""

    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One call of a layer, or of an operation of `keras.ops`."""

    name: str
    operation: Any
    args: Any
    kwargs: dict[str, Any]
    """With `Tensor` in place of tensors."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def call(self, values: Mapping[int, Any], training: bool | None) -> list[Any]:
        """Return the outputs, given the values of tensors by their numbers."""

        def fill(part: Any) -> Any:
            return values[part.number] if isinstance(part, Tensor) else part

        args = keras.tree.map_structure(fill, self.args)
        kwargs = keras.tree.map_structure(fill, self.kwargs)
        if "training" in getattr(self.operation, "_call_context_args", ()):
            kwargs["training"] = training  # as the whole model passes it
        found: list[Any] = keras.tree.flatten(self.operation(*args, **kwargs))
        return found

    def rebuilt(self, *, taken: bool = False) -> Node:
        """Return this node with a layer of its own, made from the layer's config, with equal variables.

        Args:
            taken: whether the layer itself is taken out of its model, which nobody uses any more; its config is
                checked all the same.

        Returns:
            A new node; this one stays as it is.

        Raises:
            ValueError: the layer cannot be remade from its config.
        """
        original = self.operation
        try:
            fresh = type(original).from_config(original.get_config())
            if taken:
                # else its tensors would keep all layers of the model
                original._inbound_nodes.clear()
                original._outbound_nodes.clear()
                return self
            if getattr(original, "built", False) and (config := original.get_build_config()) is not None:
                fresh.build_from_config(config)
            own, others = getattr(fresh, "variables", []), getattr(original, "variables", [])
            for variable, other in zip(own, others, strict=True):
                variable.assign(other)
        except Exception as error:
            raise ValueError(
                f"layer {original.name!r} ({type(original).__name__}) cannot be made anew from its config, as a .keras "
                f"file would have to: {error}\nHINT: give it get_config() and build(), and make its variables there"
            ) from error
        return replace(self, operation=fresh)


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """All calls of a model, in an order in which they can be computed."""

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_form: Any
    """The model's outputs with `Tensor` in place of tensors."""
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dtypes: dict[int, str]
    shapes: dict[int, tuple[int | None, ...]]

    @classmethod
    def of(cls, model: Any) -> Graph:
        """Return the graph of a Sequential or Functional model, without changing the model.

        Args:
            model: a built model.

        Returns:
            All calls of its layers.

        Raises:
            TypeError: the model is neither: it calls its layers in code of its own.
            ValueError: the model is not built.
        """
        if not isinstance(model, keras.Model):
            raise TypeError(f"the model is a {type(model).__name__}, not a keras.Model")
        functional: Any = model
        if isinstance(model, keras.Sequential):
            functional = getattr(model, "_functional", None)
            if functional is None:
                raise ValueError(
                    "the model is not built, so its layers have no variables yet: begin it with keras.Input(shape), or "
                    "call model.build((None, ...)) first"
                )
        if not hasattr(functional, "_nodes_by_depth"):
            raise TypeError(
                f"{type(model).__name__} calls its layers in code of its own, which cannot be cut: only Sequential and "
                "Functional models can. Write it as keras.Model(inputs, outputs)"
            )
        numbers: dict[int, int] = {}
        dtypes: dict[int, str] = {}
        shapes: dict[int, tuple[int | None, ...]] = {}

        def number(tensor: Any) -> int:
            found = numbers.setdefault(id(tensor), len(numbers))
            dtypes[found], shapes[found] = str(tensor.dtype), tuple(tensor.shape)
            return found

        def stand_in(part: Any) -> Any:
            return Tensor(number(part)) if isinstance(part, keras.KerasTensor) else part

        inputs = tuple(number(tensor) for tensor in functional.inputs)
        nodes: list[Node] = []
        calls: dict[str, int] = {}
        for _, level in sorted(functional._nodes_by_depth.items(), reverse=True):
            for node in level:
                if node.is_input:
                    continue
                name = node.operation.name
                calls[name] = calls.get(name, 0) + 1
                nodes.append(
                    Node(
                        name=name if calls[name] == 1 else f"{name}:{calls[name]}",
                        operation=node.operation,
                        args=keras.tree.map_structure(stand_in, node.arguments.args),
                        kwargs=keras.tree.map_structure(stand_in, node.arguments.kwargs),
                        inputs=tuple(number(tensor) for tensor in node.arguments.keras_tensors),
                        outputs=tuple(number(tensor) for tensor in node.outputs),
                    )
                )
        return cls(
            nodes=tuple(nodes),
            inputs=inputs,
            outputs=tuple(number(tensor) for tensor in functional.outputs),
            output_form=keras.tree.map_structure(stand_in, functional._outputs_struct),
            input_names=tuple(str(tensor.name) for tensor in functional.inputs),
            output_names=tuple(str(name) for name in functional.output_names),
            dtypes=dtypes,
            shapes=shapes,
        )

    def crossing(self, cut: int) -> tuple[int, ...]:
        """Return the numbers of the tensors that are made before node number `cut` and used at or after it."""
        made = {*self.inputs, *(tensor for node in self.nodes[:cut] for tensor in node.outputs)}
        wanted = {*self.outputs, *(tensor for node in self.nodes[cut:] for tensor in node.inputs)}
        return tuple(sorted(made & wanted))

    def differentiable(self, tensors: Sequence[int]) -> tuple[int, ...]:
        """Return the tensors whose gradients go back: floating ones that are not the model's inputs."""
        return tuple(t for t in tensors if t not in self.inputs and "float" in self.dtypes[t])

    def shared(self) -> dict[int, str]:
        """Return the impossible cuts, where a layer with variables is called on both sides, and the reason for each."""
        uses: dict[int, list[int]] = {}
        for place, node in enumerate(self.nodes):
            for variable in getattr(node.operation, "variables", []):
                uses.setdefault(id(variable), []).append(place)
        return {
            cut: f"{self.nodes[places[0]].name} and {self.nodes[places[-1]].name} share variables"
            for places in uses.values()
            for cut in range(places[0] + 1, places[-1] + 1)
        }
