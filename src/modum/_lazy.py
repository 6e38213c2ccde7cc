"""Packages whose names are loaded when they are first used, so that importing them costs nothing (PEP 562)."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def attach(
    package: str, homes: Mapping[str, Sequence[str]], subpackages: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        homes: the names that each module provides.
        subpackages: packages inside it that are loaded as attributes too.

    Returns:
        Both functions, to be assigned to these names in the package.
    """
    where = {name: home for home, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name in where:
            value = getattr(import_module(where[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        if name in subpackages:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: sorted([*vars(sys.modules[package]), *where, *subpackages])
