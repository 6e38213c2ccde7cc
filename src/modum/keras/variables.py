"""Which variables of a Keras model are shared, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modum.parameters import unique_names


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVariable:
    """A variable of a model, to be shared."""

    path: str
    """Its path in the model; where several have the same, the second ends with #2, and so on."""
    variable: Any
    """The `keras.Variable`."""
    trainable: bool


def model_variables(model: Any) -> list[ModelVariable]:
    """Collect the variables of a model that are shared.

    What belongs to a frozen layer (`trainable = False`) is left out, and so are seeds and counters.

    Args:
        model: built.

    Returns:
        Trainable variables, followed by the floating ones that training moves otherwise (means and variances).

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
    paths = unique_names([variable.path for variable in shared])
    return [
        ModelVariable(path=path, variable=variable, trainable=number < len(trainable))
        for number, (path, variable) in enumerate(zip(paths, shared, strict=True))
    ]
