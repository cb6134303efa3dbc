"""Gradients of a user's loss, added up over batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.progress import progress
from prunus.calibration.batches import Calibration
from prunus.calibration.ranks import merge_stats
from prunus.calibration.stats import Stats

__all__ = ["gradients"]


def gradients(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    calibration: Calibration,
    loss: Callable[[nn.Module, Any], Tensor],
    needs: frozenset[str],
) -> dict[str, Stats]:
    """name -> Stats with grad_sum and/or grad_sq, in the layout of the parameter, float32.

    Runs backward, not autograd.grad, so every kind of gradient checkpointing works; nothing is counted twice
    because the parameter's own gradient is read once per batch. `.grad` and requires_grad of all parameters
    are as before afterwards.

    Raises TypeError when the loss is no scalar tensor, ValueError naming layers without a gradient and when
    the loss is not finite.
    """
    before = {p: (p.requires_grad, p.grad) for p in model.parameters()}
    stats = {name: Stats(name) for name in weights}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        batches = list(calibration.batches)
        for batch in progress(batches, "gradients", enabled=calibration.progress):
            for parameter in before:
                parameter.grad = None
            with torch.enable_grad():
                _checked(loss(model, batch)).backward()  # type: ignore[no-untyped-call]
            for name, weight in weights.items():
                if weight.grad is not None:
                    _add(stats[name], weight.grad.detach().float(), needs)
    finally:
        for parameter, (wanted, grad) in before.items():
            parameter.requires_grad_(wanted)
            parameter.grad = grad
    merge_stats(stats, needs, weights)
    silent = ", ".join(name for name, found in stats.items() if found.tokens == 0)
    if silent:
        raise ValueError(f"loss: expected a gradient at every layer, got none at {silent}")
    return stats


def _checked(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"loss: expected a scalar tensor with a gradient, got {got}")
    if not bool(torch.isfinite(value)):
        raise ValueError(f"loss: expected a finite value, got {float(value.detach())}")
    return value.reshape(())


def _add(stats: Stats, grad: Tensor, needs: frozenset[str]) -> None:
    stats.tokens += 1
    if "grad_sum" in needs:
        stats.grad_sum = grad.clone() if stats.grad_sum is None else stats.grad_sum.add_(grad)
    if "grad_sq" in needs:
        square = grad.square()
        stats.grad_sq = square if stats.grad_sq is None else stats.grad_sq.add_(square)
