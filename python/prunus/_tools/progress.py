"""A progress bar for what takes longer than a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], label: str, total: int | None = None, enabled: bool = True) -> Iterator[T]:
    """Yield `items`; after one second show a bar on stderr (never where stderr is not a terminal).

    >>> list(progress([1, 2], "layers"))
    [1, 2]
    """
    if not enabled:
        yield from items
        return
    from tqdm import tqdm

    # disable=None: tqdm stays silent without a terminal; delay=1: nothing flashes by for short work.
    yield from tqdm(items, desc=label, total=total, delay=1, leave=False, disable=None)
