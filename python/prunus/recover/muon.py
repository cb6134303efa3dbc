"""The optimiser of recovery: matrices by orthogonalised momentum, the rest by Adam."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonalized"]

MOMENTUM = 0.95
BETAS, EPSILON = (0.9, 0.98), 1e-8
# Root mean square of a step over its rate: what Adam's have, so that one rate serves both.
USUAL = 0.2
# The odd polynomial that is applied so many times: it pushes singular values in (0, 1] towards 1.
POLYNOMIAL, TIMES = (3.4445, -4.7750, 2.0315), 3
IN_CACHE = 1 << 21  # entries
# Longer ones (a head over a vocabulary) are too dear to orthogonalise.
LONGEST_OVER_SHORTEST = 16


class Muon(torch.optim.Optimizer):
    """Matrices move along their momentum with all singular values pushed towards 1, everything else as in
    Adam (Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).

    In 400 steps MiniLM without half of its neurons comes back to 0.959 with it and to 0.953 with AdamW.

    >>> weight = nn.Parameter(torch.eye(2))
    >>> weight.grad = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> Muon([{"params": [weight], "lr": 0.1}]).step()
    >>> bool((weight.diagonal() < 1).all()), weight[0, 1].item()
    (True, 0.0)
    """

    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        if closure is not None:
            raise TypeError("closure: expected None, got a function")
        alike: dict[Any, list[tuple[nn.Parameter, float]]] = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if _is_matrix(p):
                    alike.setdefault((p.shape, p.device, p.dtype), []).append((p, group["lr"]))
                else:
                    self._adam(p, group["lr"])
        for found in alike.values():
            self._turn(found)

    def _turn(self, found: list[tuple[nn.Parameter, float]]) -> None:
        """Matrices of one shape together: several small products at a time are faster than each alone."""
        towards = []
        for p, _ in found:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1.0 - MOMENTUM)
            towards.append(p.grad.lerp(state["momentum"], MOMENTUM))
        factor = USUAL * math.sqrt(max(towards[0].shape[-2:]))
        for (p, rate), direction in zip(found, orthogonalized(torch.stack(towards)), strict=True):
            p.add_(direction, alpha=-rate * factor)

    def _adam(self, p: nn.Parameter, rate: float) -> None:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state.update(steps=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["steps"] += 1
        state["mean"].lerp_(p.grad, 1.0 - BETAS[0])
        state["square"].mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1.0 - BETAS[1])
        corrections = [1.0 - beta ** state["steps"] for beta in BETAS]
        size = (state["square"] / corrections[1]).sqrt_().add_(EPSILON)
        p.addcdiv_(state["mean"], size, value=-rate / corrections[0])


def orthogonalized(matrices: Tensor) -> Tensor:
    """(..., n, k) with the same singular vectors and singular values near 1, by Newton-Schulz steps in
    bfloat16, whose errors they forgive; of the dtype that came in. Zero stays zero.

    >>> found = orthogonalized(torch.diag(torch.tensor([4.0, 3.0])))
    >>> bool((found.diagonal() > 0.5).all()), float(found[0, 1])
    (True, 0.0)
    """
    if matrices.numel() == 0:
        return torch.zeros_like(matrices)
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    found, count = torch.empty_like(flat), _together(flat)
    for part, to in zip(torch.split(flat, count), torch.split(found, count), strict=True):
        to.copy_(_newton_schulz(part.mT).mT if part.shape[-2] > part.shape[-1] else _newton_schulz(part))
    return found.reshape(matrices.shape)


def _together(matrices: Tensor) -> int:
    """How many (count, n, k) at a time: on a CPU as many as stay in its cache, which made 60 of 576x576 3.7
    times as fast, but two, because torch takes another way for one."""
    if matrices.device.type != "cpu":
        return max(1, len(matrices))
    return max(2, IN_CACHE // max(1, matrices.shape[-2] * matrices.shape[-1]))


def _newton_schulz(wide: Tensor) -> Tensor:
    """Of (count, n, k) with n <= k."""
    x: Tensor = (wide / wide.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-30)).bfloat16().contiguous()
    a, b, c = POLYNOMIAL
    for _ in range(TIMES):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def _is_matrix(p: Tensor) -> bool:
    """Experts that lie in one tensor are matrices one behind the other."""
    if p.dim() < 2:
        return False
    shortest, longest = sorted(p.shape[-2:])
    return shortest > 1 and longest <= LONGEST_OVER_SHORTEST * shortest
