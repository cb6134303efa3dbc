"""Wanda: weights by the size of what they multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunus.methods.base import Method
from prunus.patterns import Scope

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["Wanda"]


@dataclass(frozen=True)
class Wanda(Method):
    """score_ij = |w_ij| * ||x_j||_2, x_j the input j over all calibration tokens.

    The paper compares within a row: `Unstructured(s, scope="row")`; every other pattern works too.
    Inputs that were always zero score 0: their weights go first. Source: Sun et al., arXiv:2306.11695.

    >>> import torch
    >>> from prunus.calibration import Stats
    >>> stats = Stats("fc", tokens=1, sumsq=torch.tensor([4.0, 1.0], dtype=torch.float64))
    >>> Wanda().scores(torch.tensor([[-1.0, 1.5]]), stats).tolist()
    [[2.0, 1.5]]
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sumsq"})
    name: ClassVar[str] = "wanda"
    scope: ClassVar[Scope] = "row"

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        """|w| times the norm of its input over the calibration tokens; float32."""
        assert stats.sumsq is not None
        norms = stats.sumsq.sqrt().to(weight.dtype)
        return weight.abs() * norms.to(weight.device)
