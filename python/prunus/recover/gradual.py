"""Gradual: zeros that come while the model learns, instead of all before."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.methods import Magnitude, Method
from prunus.patterns import Pattern, Unstructured, check_sparsity
from prunus.training.schedule import check_updates, stages

__all__ = ["Gradual"]

_MAGNITUDE = Magnitude()


@dataclass(frozen=True)
class Gradual:
    """A pattern that `Distill` brings the model to on its way, in `updates` steps from sparse to sparser.

    The first update is made before the first step, the last one at the fraction `end` of the budget; the rest
    of it is for the final pattern. The sparsity grows as s (1 - (1 - t)^3) at the part t (Zhu and Gupta,
    arXiv:1710.01878); an N:M pattern comes at once. Masks are estimated anew each time, by the weights as
    they have become and, where `method` looks at inputs, by batches of the training data. What was zero stays
    so. The best state counts from the last update on.

    Raises TypeError and ValueError for arguments of another kind or out of range.

    >>> [(at, round(stage.sparsity, 2)) for at, stage in Gradual(Unstructured(0.8), updates=3).due()]
    [(0.0, 0.56), (0.3, 0.77), (0.6, 0.8)]
    """

    pattern: Pattern
    method: Method = _MAGNITUDE
    updates: int = 8
    end: float = 0.6

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, Pattern):
            got = type(self.pattern).__name__
            raise TypeError(f"pattern: expected Unstructured, NM or Block, got {got}")
        if isinstance(self.pattern, Unstructured) and self.pattern.sparsity == 0:
            raise ValueError("pattern: expected a sparsity above 0, got 0")
        if not isinstance(self.method, Method):
            got = type(self.method).__name__
            raise TypeError(f"method: expected a method such as Magnitude(), got {got}")
        check_updates(self.updates)
        if check_sparsity(self.end, "end") >= 1:
            raise ValueError("end: expected below 1, so that the final pattern learns too, got 1")

    def due(self) -> list[tuple[float, Pattern]]:
        """The fraction of the budget from which on the model has each pattern."""
        way = stages(self.pattern, self.updates)
        last = max(1, len(way) - 1)
        return [(self.end * i / last, stage) for i, stage in enumerate(way)]
