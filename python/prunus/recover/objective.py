"""How far a model is from its teacher on one batch, as a loss and as figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prunus._tools.running import output_tensors
from prunus.recover.chunks import divergence

__all__ = ["Outputs", "distance", "hidden_distance", "pooled", "relative_error", "split_outputs"]

SMALL = 1e-12
# Of the states of the last block, which are hidden states too: these terms are the noisier ones. With AdamW,
# 400 steps on MiniLM without half of its neurons: 0.944 where they count 1, 0.948 with 1 / 6, 0.951 now.
STATES = 0.05


class Outputs:
    """The parts of a model's output that are compared.

    logits: (..., classes), compared as distributions. states: (batch, tokens, features), compared token by
    token, pooled, and pooled against each other. others: by name, compared as they are.
    """

    def __init__(self, output: Any) -> None:
        found = output_tensors(output)
        self.logits = found.pop("logits", None)
        found.pop("loss", None)
        first = "last_hidden_state" if "last_hidden_state" in found else next(iter(found), "")
        self.states = found.pop(first) if first in found and found[first].dim() == 3 else None
        self.others = {name: t for name, t in found.items() if t.dim() >= 2 and "hidden_states" not in name}
        if self.logits is not None and self.states is not None:
            self.states = None  # what else a language model returns are its caches and inner states
        if self.logits is not None:
            self.others = {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of everything that is compared."""
        named = {"logits": self.logits, "states": self.states, **self.others}
        return {name: tuple(t.shape) for name, t in named.items() if t is not None}

    def bytes(self) -> int:
        """Memory of everything that is compared."""
        found = [self.logits, self.states, *self.others.values()]
        return sum(t.numel() * t.element_size() for t in found if t is not None)


def split_outputs(output: Any) -> Outputs:
    """The comparable parts; ValueError when there is none."""
    parts = Outputs(output)
    if not parts.shapes():
        raise ValueError("model: expected floating-point outputs to compare, got none")
    return parts


def distance(mine: Outputs, goal: Outputs, real: Tensor | None) -> Tensor:
    """The loss of the outputs, a scalar: divergence of the logits; of token states the relative error, and
    what sentence encoders live by, the pooled vectors and their similarities within the batch."""
    terms: list[Tensor] = []
    if mine.logits is not None and goal.logits is not None:
        terms.append(divergence(rows(mine.logits, real), rows(goal.logits, real)))
    if mine.states is not None and goal.states is not None:
        last = [relative_error(mine.states, goal.states, real)]
        last += _sentence_terms(pooled(mine.states, real), pooled(goal.states, real))
        terms += [STATES * term for term in last]
    for name, tensor in mine.others.items():
        if name in goal.others:
            terms.append(relative_error(tensor, goal.others[name], real))
    return torch.stack(terms).sum()


def hidden_distance(mine: Sequence[Tensor], goal: Sequence[Tensor], real: Tensor | None) -> Tensor:
    """Mean over layers of |mine - goal|^2 / |goal|^2 over the tokens that are no padding."""
    errors = [relative_error(a, b, real) for a, b in zip(mine, goal, strict=True)]
    return torch.stack(errors).mean()


def relative_error(mine: Tensor, goal: Tensor, real: Tensor | None = None) -> Tensor:
    """|mine - goal|^2 / |goal|^2 over the tokens that are no padding, in float32 whatever comes in."""
    mine, goal = _without_padding(mine, real).float(), _without_padding(goal, real).float()
    return (mine - goal).square().sum() / goal.square().sum().clamp_min(SMALL)


def pooled(states: Tensor, real: Tensor | None) -> Tensor:
    """(batch, features) of unit length: mean over the tokens that are no padding."""
    states = states.float()
    if real is None or real.shape != states.shape[:2]:
        mean = states.mean(1)
    else:
        weight = real.unsqueeze(-1).to(states.dtype)
        mean = (states * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    return torch.nn.functional.normalize(mean, dim=-1)


def _sentence_terms(mine: Tensor, goal: Tensor) -> list[Tensor]:
    """1 - cosine of the pooled vectors, and the squared error of their similarities over the goal's."""
    terms = [(1.0 - (mine * goal).sum(-1)).mean()]
    if len(mine) > 1:
        terms.append(relative_error(mine @ mine.t(), goal @ goal.t()))
    return terms


def rows(tensor: Tensor, real: Tensor | None) -> Tensor:
    """(..., features) as rows (tokens, features), without padding where `real` (batch, tokens) fits."""
    if real is not None and _fits(tensor, real):
        return tensor[real]
    return tensor.reshape(-1, tensor.shape[-1])


def _without_padding(tensor: Tensor, real: Tensor | None) -> Tensor:
    """The tensor with zeros at padding: taking the other rows out has a gradient that is several times as
    slow."""
    if real is None or not _fits(tensor, real):
        return tensor
    padding = ~real.reshape(*real.shape, *([1] * (tensor.dim() - 2)))
    return tensor.masked_fill(padding, 0.0)


def _fits(tensor: Tensor, real: Tensor) -> bool:
    return tensor.dim() >= 3 and tensor.shape[:2] == real.shape
