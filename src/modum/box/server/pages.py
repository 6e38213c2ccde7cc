"""Long lists in pages, so that no answer is longer than a message may be."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from modum.box.protocol.limits import PAGE_BYTES

T = TypeVar("T")


def first_page(items: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
    """Yield the first items until a page is full, at least one.

    Args:
        items: in order.
        size: of an item, in bytes, roughly.
    """
    filled = 0
    for item in items:
        yield item
        filled += 100 + size(item)
        if filled >= PAGE_BYTES:
            return
