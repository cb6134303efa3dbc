"""The divergence of two sets of logits without holding a vocabulary times tokens more than needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["divergence"]

CHUNK = 1 << 22  # logits at once: 16 MB of float32


def divergence(mine: Tensor, goal: Tensor) -> Tensor:
    """Mean over rows of KL(softmax(goal) || softmax(mine)), (rows, classes) each; gradient for `mine`.

    The gradient, softmax(mine) - softmax(goal), is made along with the value, a few rows at a time: nothing
    of the size of the logits is kept but that gradient, in the dtype of `mine`.

    >>> a = torch.tensor([[0.0, 0.0]])
    >>> round(float(divergence(a, torch.tensor([[1.0, 1.0]]))), 6)
    0.0
    """
    found: Tensor = _Divergence.apply(mine, goal)  # type: ignore[no-untyped-call]
    return found


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, goal: Tensor) -> Tensor:
        count, classes = mine.shape
        step = max(1, CHUNK // max(1, classes))
        total = torch.zeros((), device=mine.device)
        wanted = ctx.needs_input_grad[0]
        grad = torch.empty_like(mine) if wanted else None
        for start in range(0, count, step):
            part = slice(start, start + step)
            a, b = (torch.log_softmax(t[part].float(), -1) for t in (mine, goal))
            p = b.exp()
            total += (p * (b - a)).sum()
            if grad is not None:
                grad[part] = a.exp_().sub_(p).div_(max(1, count))
        if grad is not None:
            ctx.save_for_backward(grad)
        return total / max(1, count)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = ctx.saved_tensors
        return grad * grads[0], None
