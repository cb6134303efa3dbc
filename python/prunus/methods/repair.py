"""Repair: the best values for the weights that were kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunus import _core

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["least_squares"]

ITERATIONS = 100
TOLERANCE = 1e-3  # the error is within 0.01 % of the exact solve's, in 20 to 30 iterations
# Rows that keep little are solved in C++, each on its own part of the matrix; for the rest products of whole
# matrices are faster. One thread, same tolerance: (768, 3072) at 80 % 2.0 s against 6.5, (768, 768) at 50 %
# 0.25 against 0.46, (384, 1536) at 50 %, whose parts leave the second cache, 1.9 against 1.0.
SHORT, SHARE = 512, 0.4


def least_squares(
    weight: Tensor, mask: Tensor, gram: Tensor, damping: float = 0.01, target: Tensor | None = None
) -> Tensor:
    """Weights (n, k) zero outside `mask` whose outputs come closest to those of `weight`, row by row.

    Minimises (v - w) (G + damping * diag G) (v - w)^T over v for every row; gram: G = X^T X (k, k), float32
    or float64. target (n, k): Y^T X of other outputs Y to come close to; the damping still pulls towards w.
    Conjugate gradients preconditioned by the diagonal (so rescaled inputs give the same answer rescaled),
    started at the masked weight: every iteration is an improvement, and a row stops at a relative residual
    of 0.001 or after 100. Kept weights of inputs that were always zero stay.

    Raises ValueError when shapes do not fit together.

    >>> import torch
    >>> w, x = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    >>> v = least_squares(w, torch.tensor([[True, False]]), x.T @ x)
    >>> [round(u, 2) for u in v[0].tolist()]
    [1.99, 0.0]
    """
    import torch

    n, k = weight.shape
    if mask.shape != (n, k):
        raise ValueError(f"mask: expected shape {(n, k)}, got {tuple(mask.shape)}")
    if gram.shape != (k, k):
        raise ValueError(f"gram: expected shape {(k, k)}, got {tuple(gram.shape)}")
    if target is not None and target.shape != (n, k):
        raise ValueError(f"target: expected shape {(n, k)}, got {tuple(target.shape)}")
    diagonal = gram.diagonal() * (1.0 + damping)
    live = diagonal > 0
    inverse = torch.where(live, 1.0 / diagonal.sqrt(), 0.0)
    # In units in which the diagonal is one: the preconditioner is then the identity.
    matrix = (gram * inverse).mul_(inverse[:, None])
    matrix.diagonal().copy_(live)
    wanted = weight @ gram if target is None else target.clone()
    wanted.addcmul_(weight, gram.diagonal(), value=damping).mul_(inverse)
    start = torch.where(live, weight * mask * diagonal.sqrt(), 0.0)
    new = _solve(matrix, mask, wanted, start).mul_(inverse)
    return torch.where(mask & ~live, weight, new)


def _solve(matrix: Tensor, mask: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """v with v zero outside the mask and (v matrix) = target inside it, beginning at `start` (n, k)."""
    import torch

    kept = mask.sum(1)
    short = kept <= max(SHORT, int(SHARE * len(matrix)))
    if matrix.device.type != "cpu" or matrix.dtype != torch.float32 or not short.any():
        return _by_products(matrix, mask, target, start)
    if short.all():
        return _in_core(matrix, mask, target, start)
    new = torch.empty_like(start)
    for rows, how in ((short, _in_core), (~short, _by_products)):
        new[rows] = how(matrix, mask[rows], target[rows], start[rows])
    return new


def _in_core(matrix: Tensor, mask: Tensor, target: Tensor, start: Tensor) -> Tensor:
    import torch

    a, keep, b, x = (tensor.detach().contiguous().numpy() for tensor in (matrix, mask, target, start))
    new, _ = _core.refit(a, keep, b, x, ITERATIONS, TOLERANCE)
    return torch.from_numpy(new)


def _by_products(matrix: Tensor, mask: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """All rows at once, each with steps of its own."""
    import torch

    new = start.clone()
    residual = (target - new @ matrix).mul_(mask)
    direction = residual.clone()
    size = residual.square().sum(1, keepdim=True)
    goal = size * TOLERANCE**2
    for _ in range(ITERATIONS):
        if bool((size <= goal).all()):
            break
        ahead = (direction @ matrix).mul_(mask)
        curvature = (direction * ahead).sum(1, keepdim=True)
        step = torch.where(curvature > 0, size / curvature, 0.0)
        new.addcmul_(direction, step)
        residual.addcmul_(ahead, step, value=-1.0)
        before, size = size, residual.square().sum(1, keepdim=True)
        direction = torch.where(before > 0, size / before, 0.0).mul(direction).add_(residual)
    return new
