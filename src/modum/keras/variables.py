"""Choose and name the shared variables of a Keras model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modum.parameters import unique_names


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVariable:
    """A shared variable of a model."""

    path: str
    """Its path in the model; if several are the same, the second ends with #2, and so on."""
    variable: Any
    """The `keras.Variable`."""
    trainable: bool


def model_variables(model: Any) -> list[ModelVariable]:
    """Collect the variables of a model that workers share.

    Variables of frozen layers (`trainable = False`) are left out, and so are seeds and counters. Moving averages of the
    weights that the optimizer keeps (`use_ema=True`) are made if they are not there yet, and begin at the weights.

    Args:
        model: a built and compiled model.

    Returns:
        Trainable variables, followed by other floating ones that training moves: means and variances, and the moving
        averages of the weights.

    Raises:
        RuntimeError: the model is not built.
        ValueError: nothing is trainable.
    """
    if not model.built or not model.variables:
        raise RuntimeError(
            f"the model {model.name!r} is not built: it has no variables to share yet. Give it an Input, or call "
            "model.build(...), or call it once on a batch, before fit"
        )
    trainable = model.trainable_variables
    if not trainable:
        raise ValueError(f"the model {model.name!r} has no trainable variable (trainable is False everywhere)")
    frozen = {
        id(variable)
        for layer in model._flatten_layers(include_self=False)
        if not layer.trainable
        for variable in layer.variables
    }
    moving = [
        variable
        for variable in model.non_trainable_variables
        if "float" in str(variable.dtype) and id(variable) not in frozen
    ]
    shared = [*trainable, *moving]
    named = [(variable.path, variable) for variable in shared]
    named += [(f"{weight.path}/average", average) for weight, average in moving_averages(model)]
    paths = unique_names([path for path, _ in named])
    return [
        ModelVariable(path=path, variable=variable, trainable=number < len(trainable))
        for number, (path, (_, variable)) in enumerate(zip(paths, named, strict=True))
    ]


def moving_averages(model: Any) -> list[tuple[Any, Any]]:
    """Return the weights of which the model's optimizer keeps moving averages, each with its average.

    An optimizer that has taken no step yet is built, and its averages set to the weights.

    Args:
        model: a built and compiled model.

    Returns:
        Pairs of variables; none without `use_ema=True`.
    """
    optimizers = _optimizers(model.optimizer)
    if not any(optimizer.use_ema for optimizer in optimizers):
        return []
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    pairs = [
        (weight, average)
        for optimizer in optimizers
        if optimizer.use_ema
        for weight, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
        if average is not None
    ]
    if int(model.optimizer.iterations) == 0:
        for weight, average in pairs:
            average.assign(weight)
    return pairs


def _optimizers(optimizer: Any) -> list[Any]:
    """Return the optimizers that change weights: those inside a wrapper, else the one given."""
    if optimizer is None:
        return []
    if inner := getattr(optimizer, "inner_optimizer", None):
        return _optimizers(inner)
    return (
        [each for one in optimizer.optimizers for each in _optimizers(one)]
        if hasattr(optimizer, "optimizers")
        else [optimizer]
    )
