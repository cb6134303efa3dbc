"""Choosing one level per layer: the least error that meets a budget, by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["choose_levels"]

Numbers = npt.NDArray[Any]


def choose_levels(
    errors: Sequence[Sequence[float]], gains: Sequence[Sequence[float]], target: float, buckets: int = 20000
) -> list[int]:
    """The index of the level of every layer with the least sum of errors whose gains reach `target`.

    errors[l][i], gains[l][i]: what layer l costs and brings at level i (any unit, finite, gains >= 0). Gains
    are rounded down to target / buckets, so the target is never missed; exact up to that grain.

    Raises ValueError when not even the largest gains reach the target.

    >>> choose_levels([[0.0, 1.0, 9.0], [0.0, 2.0, 3.0]], [[0, 1, 2], [0, 1, 2]], target=2)
    [1, 1]
    """
    if sum(max(gain) for gain in gains) < target:
        raise ValueError(f"target: expected at most {sum(max(g) for g in gains):g}, got {target:g}")
    if target <= 0:
        return [min(range(len(error)), key=error.__getitem__) for error in errors]
    # cost[b]: least error so far with b grains gained; what exceeds the target counts as the target.
    cost = np.full(buckets + 1, np.inf)
    cost[0] = 0.0
    taken = []
    for error, gain in zip(errors, gains, strict=True):
        best = np.full_like(cost, np.inf)
        choice = np.zeros((2, buckets + 1), np.int32)  # level, bucket before
        for level, (e, g) in enumerate(zip(error, gain, strict=True)):
            grains = min(buckets, int(g * buckets / target + 1e-9))
            after = np.minimum(np.arange(buckets + 1) + grains, buckets)
            for before in (np.arange(buckets - grains), np.arange(buckets - grains, buckets + 1)):
                _relax(best, choice, (cost[before] + e, after[before], before), level)
        cost = best
        taken.append(choice)
    if not np.isfinite(cost[buckets]):
        # The grain lost what the target needs; the largest gains are the one answer that is left.
        return [max(range(len(gain)), key=gain.__getitem__) for gain in gains]
    levels, bucket = [], buckets
    for choice in reversed(taken):
        levels.append(int(choice[0, bucket]))
        bucket = int(choice[1, bucket])
    return levels[::-1]


def _relax(best: Numbers, choice: Numbers, move: tuple[Numbers, Numbers, Numbers], level: int) -> None:
    """Take the moves (cost, bucket after, bucket before) that are better than the best so far."""
    cost, after, before = move
    if len(after) and after[0] == after[-1]:  # all end at the target: the cheapest counts
        cheapest = int(np.argmin(cost))
        cost, after, before = cost[cheapest : cheapest + 1], after[:1], before[cheapest : cheapest + 1]
    better = cost < best[after]
    best[after[better]] = cost[better]
    choice[0, after[better]] = level
    choice[1, after[better]] = before[better]
