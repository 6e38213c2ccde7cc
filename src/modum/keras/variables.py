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

    Variables of frozen layers (`trainable = False`) are left out, and so are seeds and counters.

    Args:
        model: a built model.

    Returns:
        Trainable variables, followed by other floating ones that training moves (means and variances).

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
