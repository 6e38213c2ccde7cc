"""All workers of a job use one model and one set of settings, or are refused."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from modum.errors import BufferExistsError, BufferNotFoundError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modum.box import Box, Buffer

SHOWN = 5
"""How many differences a refusal spells out."""


def open_or_create(box: Box, name: str, size: int, dtype: str, meta: dict[str, Any]) -> Buffer:
    """The buffer ``name``, made if nobody has. Raises MismatchError unless its meta equals ``meta``."""
    try:
        buffer = box.open(name)
    except BufferNotFoundError:
        try:
            return box.create(name, size, dtype, meta=meta)
        except BufferExistsError:
            buffer = box.open(name)
    try:
        compare(name, buffer.meta, meta)
    except MismatchError:
        buffer.close()
        raise
    return buffer


def compare(name: str, shared: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a worker that differs from what ``name`` was made with.

    Both sides have the same form: sections by name, each a list of ``[name, text]`` pairs or a mapping.

    Raises:
        MismatchError: they differ; the message shows both values of the first differences.
    """
    differences = [
        f"  {key}: shared {theirs}, here {ours}"
        for section in here
        for key, theirs, ours in _differences(dict(shared.get(section, {})), dict(here[section]))
    ]
    if not differences:
        for section, ours in here.items():
            # the order of tensors is the layout of the shared vector
            if list(dict(shared[section])) != list(dict(ours)):
                differences.append(f"  {section}: the same names, but in another order")
    if differences:
        more = len(differences) - SHOWN
        raise MismatchError(
            f"this worker differs from the first worker of {name!r}:\n"
            + "\n".join(islice(differences, SHOWN))
            + (f"\n  and {more} more" if more > 0 else "")
            + "\nStart every worker with the same model and settings, or use another name."
        )


def _differences(shared: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, str, str]]:
    names = [*shared, *(name for name in here if name not in shared)]
    pairs = [(name, str(shared.get(name, "nothing")), str(here.get(name, "nothing"))) for name in names]
    return [(name, theirs, ours) for name, theirs, ours in pairs if theirs != ours]
