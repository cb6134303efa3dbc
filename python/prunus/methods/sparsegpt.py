"""SparseGPT: prune column by column and let the columns to come make up for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunus.methods.base import Method, choose
from prunus.patterns import NM, Pattern, Scope, Unstructured

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["SparseGPT"]

PANEL = 16


@dataclass(frozen=True)
class _Sizes:
    """Columns per lazy update of what lies behind, per update of the rest of those, per decision."""

    block: int
    panel: int
    decision: int


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
    name: ClassVar[str] = "sparsegpt"
    scope: ClassVar[Scope] = "row"

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
        diagonal, live = factor.diagonal(), stats.gram.diagonal()
        # Transposed: a column of the weight is a contiguous row here.
        new = weight.t().clone(memory_format=torch.contiguous_format)
        scores = torch.empty_like(new)
        keep = torch.ones_like(new, dtype=torch.bool)

        def decide(start: int, stop: int) -> None:
            """Fix the mask of these columns from the weights as they are now."""
            columns = slice(start, stop)
            if _is_local(pattern):
                now = self._scores(new[columns].t(), diagonal[columns], live[columns])
                keep[columns] = choose(now, pattern).t()
                return
            scores[start:] = self._scores(new[start:].t(), diagonal[start:], live[start:]).t()
            keep[columns] = choose(scores.t(), pattern).t()[columns]
            scores[columns] = torch.where(keep[columns], torch.inf, -torch.inf)

        _sweep(new, keep, factor, decide, self._sizes(pattern))
        return keep.t().contiguous(), new.t().contiguous()

    def _sizes(self, pattern: Pattern) -> _Sizes:
        if isinstance(pattern, Unstructured):
            return _Sizes(self.block, PANEL, 1 if pattern.scope == "column" else self.block)
        unit = pattern.m if isinstance(pattern, NM) else pattern.shape[1]
        block, panel = (-(-size // unit) * unit for size in (self.block, PANEL))
        return _Sizes(block, panel, unit if isinstance(pattern, NM) else block)

    @staticmethod
    def _scores(weight: Tensor, diagonal: Tensor, live: Tensor) -> Tensor:
        scores = (weight / diagonal.to(weight.dtype)).square_()
        return scores.masked_fill_(live == 0, 0.0)


def _is_local(pattern: Pattern) -> bool:
    """Whether columns can be decided without looking at the columns of other decisions."""
    return isinstance(pattern, NM) or (isinstance(pattern, Unstructured) and pattern.scope == "column")


def _sweep(
    new: Tensor,
    keep: Tensor,
    factor: Tensor,
    decide: Callable[[int, int], None],
    sizes: _Sizes,
) -> None:
    """Zero the pruned columns (rows of `new` (k, n)) from left to right; later ones take over what they can.

    Column by column only inside a panel; the rest of the block and what lies behind it follow in matrix
    products (a column at a time over a block of 128 was half of the run: 2 ms per column of 3072 rows).
    """
    import torch

    k, block, panel = len(new), sizes.block, sizes.panel
    nothing = new.new_zeros(())
    for start in range(0, k, block):
        stop = min(start + block, k)
        errors = new.new_empty(stop - start, new.shape[1])
        for left in range(start, stop, panel):
            right = min(left + panel, stop)
            for j in range(left, right):
                if (j - start) % sizes.decision == 0:
                    decide(j, min(j + sizes.decision, stop))
                error = torch.where(keep[j], nothing, new[j], out=errors[j - start])
                new[j].sub_(error)
                error.div_(factor[j, j])
                new[j + 1 : right].addcmul_(factor[j, j + 1 : right, None], error[None], value=-1.0)
            done = slice(left - start, right - start)
            new[right:stop].addmm_(factor[left:right, right:stop].t(), errors[done], alpha=-1.0)
        new[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1.0)


def inverse_factor(stats: Stats, damping: float) -> Tensor:
    """U (k, k) float64, upper triangular, (H + damping * diag H)^-1 = U^T U; inputs never seen get u = 1.

    Factor H read backwards: H = R R^T with R upper triangular, then U = R^-1. One Cholesky and one triangular
    inverse, where inverting first takes two factorisations, the second of a worse conditioned matrix.
    """
    import torch

    assert stats.gram is not None
    gram = stats.gram.double()
    diagonal = gram.diagonal()
    diagonal[diagonal == 0] = 1.0
    for _ in range(6):
        damped = gram.flip(0, 1)  # a copy
        damped.diagonal().add_(diagonal.flip(0), alpha=damping)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return _triangular_inverse(lower.flip(0, 1))
        damping *= 10.0
    raise ValueError(f"calibration: expected a positive definite X^T X, got none at damping {damping:g}")


def _triangular_inverse(upper: Tensor) -> Tensor:
    """By halves, so that nearly all of it is matrix products: at 3072, 0.54 s of one thread's time where
    solving for the identity took 0.87."""
    import torch

    k = len(upper)
    if k <= 64:
        identity = torch.eye(k, dtype=upper.dtype, device=upper.device)
        found: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
        return found
    half = k // 2
    inverse = torch.zeros_like(upper)
    inverse[:half, :half] = _triangular_inverse(upper[:half, :half])
    inverse[half:, half:] = _triangular_inverse(upper[half:, half:])
    inverse[:half, half:] = -(inverse[:half, :half] @ upper[:half, half:]) @ inverse[half:, half:]
    return inverse
