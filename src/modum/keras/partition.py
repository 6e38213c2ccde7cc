"""Cut Keras models, Sequential and Functional ones, into pipeline stages."""

from __future__ import annotations

import gc
import json
import time
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np

from modum.keras.backends import backend
from modum.keras.graph import Graph, Node
from modum.keras.stage import KerasStage, Outline, Part, Remade, fresh_optimizer, host_array
from modum.pipeline import Layer, agree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modum.job import Job

__all__ = ["partition"]

_TIMINGS: Final = 3
"""Measurements per layer: the first one compiles, and the fastest of the others counts."""
_SAMPLES: Final = 32
"""Samples in the batch of zeros that measures layers if the user gives none."""


def partition(
    job: Job,
    model: Any,
    *,
    stages: int | None = None,
    at: Sequence[str] | None = None,
    sample: Any = None,
    name: str = "pipeline",
) -> KerasStage:
    """Return this worker's stage of a compiled model, with only its layers, made anew from their configs.

    The model is not changed. Optimizer, loss and metrics are those that it was compiled with.

    Args:
        job: from `modum.connect`; rank r computes stage `r % stages`.
        model: a built Sequential or Functional model, or a function that makes it, which saves memory: the other layers
            are freed before this returns.
        stages: number of stages; default: one per worker.
        at: names of the first layers of stages 1, 2, ...; default: balanced by the time that each layer takes for
            `sample` on the first worker, and by the bytes of its variables.
        sample: inputs of the model for one batch of the usual size, for measuring; needed only if a shape has unknown
            extents besides the batch's.
        name: name of the pipeline in the box, as given to `Pipeline`.

    Returns:
        The stage.

    Raises:
        ValueError: the model is not built or compiled, a name in `at` is not a layer, the model has too few layers, or
            a layer cannot be made from its config.
        TypeError: the model is neither Sequential nor Functional.
        MismatchError: workers differ in the model.
    """
    if not isinstance(model, keras.Model) and callable(model):
        try:
            return _stage(job, model(), stages=stages, at=at, sample=sample, name=name, taken=True)
        finally:
            gc.collect()  # layers and models are in cycles
    return _stage(job, model, stages=stages, at=at, sample=sample, name=name)


def _stage(
    job: Job,
    model: Any,
    *,
    stages: int | None,
    at: Sequence[str] | None,
    sample: Any,
    name: str,
    taken: bool = False,
) -> KerasStage:
    graph = Graph.of(model)
    training = _training_of(model)
    cuts = agree(
        job,
        [node.name for node in graph.nodes],
        stages=stages,
        at=at,
        forbidden=graph.shared(),
        measure=lambda: _measure(graph, sample),
        name=name,
    )
    lo, hi = cuts.own
    # before layers are taken, and not by the user's function, which would advance Keras's numbering of layer names
    whole = None if cuts.index > 0 else Remade(model, graph, training)
    nodes = _rebuilt(graph.nodes[lo:hi], taken=taken)
    given, returned = graph.crossing(lo), graph.crossing(hi)
    if cuts.index == 0:
        given = graph.inputs
    part = Part(nodes, given, returned)
    return KerasStage(cuts, Outline.of(graph, given, returned), part, training, whole)


def _training_of(model: Any) -> dict[str, Any]:
    """Return the model's optimizer, loss, loss weights and metrics, as compiled."""
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
    # a built optimizer belongs to all variables of the model
    return {**training, "optimizer": fresh_optimizer(optimizer) if optimizer.built else optimizer}


def _rebuilt(nodes: Sequence[Node], *, taken: bool) -> list[Node]:
    """Return the nodes with new layers, or those of the model itself; a layer that is called twice is made once."""
    made: dict[int, Any] = {}
    found = []
    for node in nodes:
        if id(node.operation) not in made:
            made[id(node.operation)] = node.rebuilt(taken=taken).operation
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


def _measure(graph: Graph, sample: Any) -> list[Layer]:
    """Return the cost of each layer for the sample, forward and backward, without changing the model.

    As a stage computes them: compiled where the backend can. Equal layers with equal inputs are measured once.
    """
    way = backend()
    values = dict(zip(graph.inputs, _sample(graph, sample), strict=True))
    known: dict[str, float] = {}
    costs = []
    for node in graph.nodes:
        given = tuple(dict.fromkeys(node.inputs))
        part = Part([node], given, node.outputs)
        floating = ["float" in graph.dtypes[tensor] for tensor in given]
        answered = ["float" in graph.dtypes[tensor] for tensor in node.outputs]

        def run(
            variables: list[Any],
            inputs: list[Any],
            state: list[Any],
            others: list[Any],
            part: Part = part,
            floating: list[bool] = floating,
            answered: list[bool] = answered,
        ) -> tuple[list[Any], Any]:
            chosen, rest = iter(inputs), iter(others)
            outputs = part.run(variables, state, [next(chosen if chooses else rest) for chooses in floating])[0]
            return [output for output, counts in zip(outputs, answered, strict=True) if counts], outputs

        compiled = way.compiled(run)
        kind = _kind(node, [values[tensor] for tensor in given])
        seconds = []
        for _ in range(1 if kind in known else _TIMINGS):
            variables = way.kept(part.trainable_variables, stash=True)
            state = way.kept(part.non_trainable_variables, stash=True)
            inputs = [values[tensor] for tensor, chooses in zip(given, floating, strict=True) if chooses]
            others = [values[tensor] for tensor, chooses in zip(given, floating, strict=True) if not chooses]
            start = time.perf_counter()
            if kind in known:
                _, everything = run(variables, inputs, state, others)
                continue
            outputs, everything, back = way.forward(compiled, variables, inputs, state, others)
            way.wait(back([keras.ops.ones_like(output) for output in outputs]))
            seconds.append(time.perf_counter() - start)
        if seconds:
            known[kind] = min(seconds[1:])
        values.update(
            (number, keras.ops.stop_gradient(tensor)) for number, tensor in zip(node.outputs, everything, strict=True)
        )
        nbytes = sum(host_array(variable.value).nbytes for variable in part.trainable_variables)
        costs.append(Layer(name=node.name, seconds=known[kind], nbytes=nbytes))
    return costs


def _kind(node: Node, inputs: Sequence[Any]) -> str:
    """Return what is equal for layers that take equally long: all but their names, and what they compute on."""
    config = node.operation.get_config() if isinstance(node.operation, keras.Layer) else {}
    config = {key: value for key, value in config.items() if key != "name"}
    shapes = [f"{each.dtype}{tuple(each.shape)}" for each in inputs]
    called = [repr(node.args), repr(node.kwargs)] if not config else sorted(node.kwargs)
    return json.dumps([type(node.operation).__qualname__, config, shapes, called], sort_keys=True, default=repr)


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
