"""Whether a model still answers as before, and which of its new layers are to blame when it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["culprits", "relative_error"]

ItemT = TypeVar("ItemT")
Outputs = dict[str, Tensor]


def relative_error(expected: Sequence[Outputs], got: Sequence[Outputs]) -> float:
    """The largest relative error (L2) among the output tensors of all batches.

    Compared where both are finite (masked logits are -inf). Infinite when an output vanished, has another
    shape, or is NaN or infinite where the other is not, or otherwise so.

    >>> a, b = {"y": torch.tensor([3.0, 4.0])}, {"y": torch.tensor([3.0, 3.0])}
    >>> relative_error([a], [b]), relative_error([a], [{}])
    (0.2, inf)
    """
    errors = [0.0]
    for before, after in zip(expected, got, strict=True):
        for name, tensor in before.items():
            other = after.get(name)
            errors.append(math.inf if other is None or other.shape != tensor.shape else _error(tensor, other))
    return max(errors)


def _error(expected: Tensor, got: Tensor) -> float:
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, got) else math.inf
    expected, got = expected.double(), got.double()
    finite = expected.isfinite()
    same = torch.equal(finite, got.isfinite()) and torch.equal(
        expected.nan_to_num(7.0)[~finite], got.nan_to_num(7.0)[~finite]
    )
    if not same:
        return math.inf
    norm = float(expected[finite].norm())
    difference = float((got[finite] - expected[finite]).norm())
    return difference / norm if norm else (0.0 if difference == 0.0 else math.inf)


def culprits(
    items: Sequence[ItemT], error_of: Callable[[Sequence[ItemT]], float], bound: float
) -> list[ItemT]:
    """Those of `items` that alone (or with few neighbours) push the error above `bound`, by bisection.

    error_of(some) is the error with only those in place.

    >>> culprits(range(8), lambda some: 1.0 if 5 in some else 0.0, 0.1)
    [5]
    """
    if not items or error_of(items) <= bound:
        return []
    if len(items) == 1:
        return list(items)
    half = len(items) // 2
    found = culprits(items[:half], error_of, bound) + culprits(items[half:], error_of, bound)
    # Harmless apart, harmful together: the first half goes.
    return found or list(items[:half])
