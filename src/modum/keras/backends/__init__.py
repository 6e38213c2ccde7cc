"""The frameworks that Keras computes with; one file each."""

from importlib import import_module

import keras

from modum.keras.backends.base import Backend

__all__ = ["BACKENDS", "Backend", "backend"]

BACKENDS = {
    "tensorflow": ("modum.keras.backends.tensorflow", "TensorFlowBackend"),
    "torch": ("modum.keras.backends.torch", "TorchBackend"),
}
"""Module and class by the name that Keras gives the backend; a new one is a file, and a line here."""


def backend() -> Backend:
    """Import the backend for the framework that Keras uses, and no other framework.

    Returns:
        The backend.

    Raises:
        RuntimeError: Keras uses a framework on which Modum cannot train.
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
