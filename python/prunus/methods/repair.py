"""Repair: the best values for the weights that were kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["least_squares"]


def least_squares(weight: Tensor, mask: Tensor, gram: Tensor, damping: float = 0.01) -> Tensor:
    """Weights (n, k) zero outside `mask` whose outputs come closest to those of `weight`, row by row.

    Minimises (v - w) (G + damping * diag G) (v - w)^T over v for every row.
    gram: G = X^T X (k, k), float32 or float64.
    One conjugate gradient for all rows at once, preconditioned by the diagonal (so rescaled inputs give the
    same answer rescaled), started at the masked weight: every iteration is an improvement, and it stops at a
    relative residual of 1e-4 or after 100. Kept weights of inputs that were always zero stay.

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
    diagonal = gram.diagonal() * (1.0 + damping)
    inverse = torch.where(diagonal > 0, 1.0 / diagonal, 0.0)

    def times_gram(v: Tensor) -> Tensor:
        return torch.addcmul(v @ gram, v, gram.diagonal(), value=damping)

    new = weight * mask
    residual = times_gram(weight - new).mul_(mask)
    direction = residual * inverse
    size = (residual * direction).sum(1, keepdim=True)
    goal = size * 1e-8
    for _ in range(100):
        if bool((size <= goal).all()):
            break
        ahead = times_gram(direction).mul_(mask)
        curvature = (direction * ahead).sum(1, keepdim=True)
        step = torch.where(curvature > 0, size / curvature, 0.0)
        new.addcmul_(direction, step)
        residual.addcmul_(ahead, step, value=-1.0)
        scaled = residual * inverse
        before, size = size, (residual * scaled).sum(1, keepdim=True)
        direction = scaled.addcmul_(direction, torch.where(before > 0, size / before, 0.0))
    return new
