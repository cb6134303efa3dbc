"""Statistics of the inputs of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Stats"]


@dataclass
class Stats:
    """What calibration measured at one layer (k inputs, n outputs); what was not asked for is None.

    name: of the layer. tokens: rows seen, without padding. sumsq: (k,) float64, sum of x_j^2.
    gram: (k, k) float32, X^T X.
    grad_sum, grad_sq: (n, k) float32, sum over batches of dloss/dW and of its square.

    >>> Stats("fc", tokens=3).gram is None
    True
    """

    name: str = ""
    tokens: int = 0
    sumsq: Tensor | None = None
    gram: Tensor | None = None
    grad_sum: Tensor | None = None
    grad_sq: Tensor | None = None

    def to(self, device: torch.device) -> Stats:
        """The same numbers on `device`, where the weight is that they are about: a layer may be called with
        inputs that something moves (`accelerate`), and other processes may measure elsewhere."""
        names = ("sumsq", "gram", "grad_sum", "grad_sq")
        moved = {n: None if (t := getattr(self, n)) is None else t.to(device) for n in names}
        return Stats(self.name, self.tokens, **moved)

    def part(self, rows: slice | list[int]) -> Stats:
        """The same inputs seen by some rows of the weight (one projection of a fused one)."""
        cut = [g if g is None else g[rows] for g in (self.grad_sum, self.grad_sq)]
        start, stop = (rows.start, rows.stop) if isinstance(rows, slice) else (rows[0], rows[-1] + 1)
        return Stats(f"{self.name}[{start}:{stop}]", self.tokens, self.sumsq, self.gram, *cut)
