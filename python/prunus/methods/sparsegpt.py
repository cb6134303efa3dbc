"""SparseGPT: prune column by column and let the columns to come make up for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunus.methods.base import Method, choose
from prunus.patterns import NM, Pattern, Unstructured

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["SparseGPT"]


@dataclass(frozen=True)
class SparseGPT(Method):
    """Optimal brain surgeon over one Hessian H = X^T X for all rows, columns from left to right.

    With H^-1 = U^T U (U upper triangular) the cost of removing w_ij, the columns right of j compensating, is
    (w_ij / u_jj)^2: that is the score. The mask is chosen again every `block` columns (every group for N:M)
    from the updated weights: over the whole weight, with what is decided fixed, so every budget is exact.
    damping: each diagonal entry of H grows by this fraction of itself, ten times more where H is still not
    positive definite. Being relative per input, it does not change the mask when inputs are rescaled.
    Inputs that were always zero: their weights go first and nothing is compensated through them.

    Raises ValueError for damping <= 0 or block < 1, and when H is not positive definite at any damping.
    Source: Frantar and Alistarh, arXiv:2301.00774; per-input damping and the global mask are ours.

    >>> import torch
    >>> from prunus.calibration import Stats
    >>> x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.0, 0.9]])
    >>> mask, w = SparseGPT().prune(torch.ones(1, 2), Stats("fc", 3, gram=x.T @ x), Unstructured(0.5))
    >>> mask.tolist(), bool(w[0, 1] > 1.9)  # the second input stands in for the first
    ([[False, True]], True)
    """

    damping: float = 0.01
    block: int = 128
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.damping > 0:
            raise ValueError(f"damping: expected > 0, got {self.damping}")
        if self.block < 1:
            raise ValueError(f"block: expected >= 1, got {self.block}")

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        """(w / u)^2 before any update; 0 for inputs that were always zero."""
        assert stats.gram is not None
        return self._scores(weight, inverse_factor(stats, self.damping).diagonal(), stats.gram.diagonal())

    def prune(self, weight: Tensor, stats: Stats, pattern: Pattern) -> tuple[Tensor, Tensor | None]:
        """Mask and the updated weight, zero outside the mask."""
        import torch

        assert stats.gram is not None
        factor = inverse_factor(stats, self.damping).to(weight.dtype)
        live = stats.gram.diagonal()
        new = weight.clone()
        scores = torch.empty_like(weight)
        mask = torch.ones_like(weight, dtype=torch.bool)

        def decide(start: int, stop: int) -> None:
            """Fix the mask of these columns from the weights as they are now."""
            columns = slice(start, stop)
            if _is_local(pattern):
                now = self._scores(new[:, columns], factor.diagonal()[columns], live[columns])
                mask[:, columns] = choose(now, pattern)
                return
            scores[:, start:] = self._scores(new[:, start:], factor.diagonal()[start:], live[start:])
            mask[:, columns] = choose(scores, pattern)[:, columns]
            scores[:, columns] = torch.where(mask[:, columns], torch.inf, -torch.inf)

        _sweep(new, mask, factor, decide, self._sizes(pattern))
        return mask, new

    def _sizes(self, pattern: Pattern) -> tuple[int, int]:
        """Columns per lazy update, columns per decision."""
        if isinstance(pattern, Unstructured):
            return self.block, 1 if pattern.scope == "column" else self.block
        unit = pattern.m if isinstance(pattern, NM) else pattern.shape[1]
        block = -(-self.block // unit) * unit
        return block, unit if isinstance(pattern, NM) else block

    @staticmethod
    def _scores(weight: Tensor, diagonal: Tensor, live: Tensor) -> Tensor:
        scores = (weight / diagonal.to(weight.dtype)).square_()
        return scores.masked_fill_(live == 0, 0.0)


def _is_local(pattern: Pattern) -> bool:
    """Whether columns can be decided without looking at the columns of other decisions."""
    return isinstance(pattern, NM) or (isinstance(pattern, Unstructured) and pattern.scope == "column")


def _sweep(
    weight: Tensor,
    mask: Tensor,
    factor: Tensor,
    decide: Callable[[int, int], None],
    sizes: tuple[int, int],
) -> None:
    """Zero the pruned columns from left to right, in place; later columns take over what they can.

    Inside a block of columns every removal updates the block; the columns behind it are updated once per
    block by one matrix product.
    """
    import torch

    k, (block, step) = weight.shape[1], sizes
    for start in range(0, k, block):
        stop = min(start + block, k)
        errors = torch.zeros(stop - start, len(weight), dtype=weight.dtype, device=weight.device)
        for j in range(start, stop):
            if (j - start) % step == 0:
                decide(j, min(j + step, stop))
            column = weight[:, j]
            error = torch.where(mask[:, j], 0.0, column).div_(factor[j, j])
            # Starts at j itself: u_jj times the error is the pruned weight, which becomes zero.
            weight[:, j:stop].addr_(error, factor[j, j:stop], alpha=-1.0)
            column.masked_fill_(~mask[:, j], 0.0)
            errors[j - start] = error
        if stop < k:
            weight[:, stop:].addmm_(errors.t(), factor[start:stop, stop:], alpha=-1.0)


def inverse_factor(stats: Stats, damping: float) -> Tensor:
    """U (k, k) float64, upper triangular, (H + damping * diag H)^-1 = U^T U; inputs never seen get u = 1.

    Factor H read backwards: H = R R^T with R upper triangular, then U = R^-1. One Cholesky and one triangular
    solve, where inverting first takes two factorisations, the second of a worse conditioned matrix.
    """
    import torch

    assert stats.gram is not None
    gram = stats.gram.double()
    diagonal = gram.diagonal()
    diagonal[diagonal == 0] = 1.0
    for _ in range(6):
        damped = gram + torch.diag(damping * diagonal)
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            factor: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
            return factor
        damping *= 10.0
    raise ValueError(f"calibration: expected a positive definite X^T X, got none at damping {damping:g}")
