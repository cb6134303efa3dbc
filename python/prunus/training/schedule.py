"""Sparsity that grows while a model trains."""

from __future__ import annotations

from dataclasses import replace

from prunus.patterns import NM, Block, Pattern, Unstructured

__all__ = ["check_updates", "grown", "stages"]


def check_updates(updates: object) -> None:
    """Raises TypeError and ValueError unless it is a number of updates: an integer of at least 1.

    >>> check_updates(8)
    """
    if isinstance(updates, bool) or not isinstance(updates, int):
        raise TypeError(f"updates: expected an integer, got {type(updates).__name__}")
    if updates < 1:
        raise ValueError(f"updates: expected >= 1, got {updates}")


def grown(sparsity: float, part: float) -> float:
    """The sparsity after that part (0..1) of the way: fast at first, where weights are many.

    Source: Zhu and Gupta, arXiv:1710.01878.

    >>> round(grown(0.8, 0.5), 3)
    0.7
    """
    return sparsity * (1.0 - (1.0 - part) ** 3)


def stages(pattern: Pattern, updates: int) -> list[Pattern]:
    """The patterns of so many updates, the last one `pattern` itself; of N:M, which has one sparsity, that.

    >>> [round(stage.sparsity, 2) for stage in stages(Unstructured(0.8), 4)]
    [0.46, 0.7, 0.79, 0.8]
    """
    if isinstance(pattern, NM):
        return [pattern]
    graded: Unstructured | Block = pattern
    way = [grown(graded.sparsity, i / updates) for i in range(1, updates)]
    return [*(replace(graded, sparsity=s) for s in way), graded]
