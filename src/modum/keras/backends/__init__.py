"""The frameworks that Keras computes with, one file each."""

from importlib import import_module

import keras

from modum.keras.backends.base import Backend

__all__ = ["BACKENDS", "Backend", "backend"]

BACKENDS = {
    "tensorflow": ("modum.keras.backends.tensorflow", "TensorFlowBackend"),
    "torch": ("modum.keras.backends.torch", "TorchBackend"),
}
"""Module and class by Keras's name for the backend; add a file and a line here for a new one."""


def backend() -> Backend:
    """Return the backend for the framework that Keras uses, importing no other framework.

    Returns:
        The backend.

    Raises:
        RuntimeError: Modum cannot train on the framework that Keras uses.
    """
    name = keras.backend.backend()
    if name not in BACKENDS:
        raise RuntimeError(
            f"modum.keras works on the backends {' and '.join(BACKENDS)}, not on {name}, whose fit keeps the weights "
            "to itself while it trains\nHINT: set KERAS_BACKEND=tensorflow (or torch) before keras is imported"
        )
    home, kind = BACKENDS[name]
    made: Backend = getattr(import_module(home), kind)()
    return made
