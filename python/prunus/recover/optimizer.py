"""Muon with steps that are a share of each weight's own size, and the schedule of that share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.recover.muon import Muon

__all__ = ["make_optimizer", "schedule", "set_rates", "usual_size"]

WARM_UP = 0.03
SMALLEST = 0.02  # a bias that is still zero must be able to move


def make_optimizer(parameters: Mapping[str, nn.Parameter], share: float) -> Muon:
    """One group a tensor: its learning rate is `share` of the root mean square of its nonzero entries.

    A rate for every model would have to be tuned: the weights of MiniLM and SmolLM2 differ in size, and a
    step moves every weight by a fixed part of the rate, whatever its gradient.
    """
    groups = [{"params": [p], "lr": share * usual_size(p.detach()), "name": n} for n, p in parameters.items()]
    for group in groups:
        group["full_rate"] = group["lr"]
    return Muon(groups)


def usual_size(values: Tensor) -> float:
    """Root mean square of the nonzero entries, at least 0.02.

    >>> round(usual_size(torch.tensor([0.0, 3.0, 3.0])), 3)
    3.0
    """
    live = int(torch.count_nonzero(values))
    size = float(values.float().norm()) / math.sqrt(max(1, live))
    return max(SMALLEST, size)


def schedule(fraction: float) -> float:
    """The share of the full rate after this fraction of the budget: a short rise, then straight to zero.

    >>> [round(schedule(f), 2) for f in (0.0, 0.015, 0.03, 1.0)]
    [0.0, 0.5, 1.0, 0.0]
    """
    if fraction < WARM_UP:
        return fraction / WARM_UP
    return max(0.0, (1.0 - fraction) / (1.0 - WARM_UP))


def set_rates(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Set the rate of every group for this fraction of the budget."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * schedule(fraction)
