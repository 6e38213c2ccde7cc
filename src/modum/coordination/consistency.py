"""Refuse workers whose model or settings differ from the first worker's."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from modum.box import Box, Buffer
from modum.errors import MismatchError

__all__ = ["agree", "compare", "open_alike"]

_SHOWN: Final = 5
"""How many differences an error message shows."""


def agree(box: Box, name: str, ours: Mapping[str, Any]) -> None:
    """Publish `ours` under `name` if no worker has yet, else check that it equals what was published.

    Args:
        box: where to publish it, as a small value.
        name: the value's.
        ours: sections by name, as in `compare`, of types that msgpack supports.

    Raises:
        MismatchError: the first worker published something else; the message shows both.
    """
    # pairs, as the box keeps no order of a mapping's keys
    sections = {section: [list(pair) for pair in dict(settings).items()] for section, settings in ours.items()}
    compare(name, box.value(name).set_default(sections), ours)


def open_alike(box: Box, name: str, meta: Mapping[str, Any]) -> Buffer:
    """Open the buffer `name`, and check that whoever made it has the same settings.

    Args:
        box: where the buffer is.
        name: the buffer's.
        meta: the expected `meta` of the buffer; sections as in `compare`.

    Returns:
        The buffer, open.

    Raises:
        BufferNotFoundError: there is none of this name.
        MismatchError: it was made with another `meta`; it is not open then.
    """
    buffer = box.open(name)
    try:
        compare(name, buffer.meta, meta)
    except MismatchError:
        buffer.close()
        raise
    return buffer


def compare(name: str, shared: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Compare this worker with the first one.

    Args:
        name: name of what the workers share.
        shared: the first worker's values: sections by name, each a mapping or a list of `[name, text]` pairs.
        here: this worker's values, in the same form.

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
        more = len(differences) - _SHOWN
        raise MismatchError(
            f"this worker differs from the first worker of {name!r}:\n"
            + "\n".join(islice(differences, _SHOWN))
            + (f"\n  and {more} more" if more > 0 else "")
            + "\nStart every worker with the same model and settings, or use another name."
        )


def _differences(shared: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, str, str]]:
    names = [*shared, *(name for name in here if name not in shared)]
    pairs = [(name, str(shared.get(name, "nothing")), str(here.get(name, "nothing"))) for name in names]
    return [(name, theirs, ours) for name, theirs, ours in pairs if theirs != ours]
