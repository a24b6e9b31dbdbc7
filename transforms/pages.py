"""Many things, so many at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def pages_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in order, in lists of ``size``, the last of what is left.

    >>> list(pages_of("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while page := list(itertools.islice(iterator, size)):
        yield page
