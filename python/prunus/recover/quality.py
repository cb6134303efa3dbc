"""How good a model is on held-out batches, against its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from prunus.recover.objective import Outputs, pooled, relative_error, rows

__all__ = ["Quality", "measure"]


class Quality:
    """Figures by name; `score` is the one that decides which state is best, larger is better.

    Language models: agreement (of the most likely next token with the teacher's), divergence (score: its
    negative) and, for a model that reads input_ids and predicts the next of them, perplexity. Others: cosine
    (score): of the pooled token states, or of the output rows; and relative_error of the same tensors.
    """

    def __init__(self, figures: dict[str, float]) -> None:
        self.figures = figures

    @property
    def goal(self) -> str:
        """Name of the figure to show first."""
        return "agreement" if "agreement" in self.figures else "cosine"

    @property
    def score(self) -> float:
        """Larger is better; -inf when it is not finite."""
        value = -self.figures["divergence"] if "divergence" in self.figures else self.figures["cosine"]
        return value if math.isfinite(value) else -math.inf

    @property
    def distance(self) -> float:
        """From the teacher, smaller is better: 0 where they agree."""
        return -self.score if "divergence" in self.figures else 1.0 - self.score

    def __str__(self) -> str:
        return f"{self.goal} {self.figures[self.goal]:.4f}"


#: What the model and its teacher gave for one batch, the batch, and bool (batch, tokens), False at padding.
Answer = tuple[Outputs, Outputs, Any, Tensor | None]


def measure(answers: Iterable[Answer]) -> Quality:
    """The quality of a model by its answers to the held-out batches."""
    sums: dict[str, float] = {}
    for mine, goal, batch, real in answers:
        for name, value in _figures(mine, goal, batch, real).items():
            sums[name] = sums.get(name, 0.0) + value
    count = max(1.0, sums.pop("count"))
    predicted = sums.pop("predicted", 0.0)
    surprise = sums.pop("surprise", 0.0)
    figures = {name: value / count for name, value in sums.items()}
    if predicted:
        figures["perplexity"] = math.exp(min(50.0, surprise / predicted))
    return Quality(figures)


def _figures(mine: Outputs, goal: Outputs, batch: Any, real: Tensor | None) -> dict[str, float]:
    """Sums over what is counted in "count" (and "predicted", of which "surprise" is the sum)."""
    if mine.logits is not None and goal.logits is not None:
        return _of_logits(mine.logits, goal.logits, batch, real)
    if mine.states is not None and goal.states is not None:
        a, b = pooled(mine.states, real), pooled(goal.states, real)
        error = relative_error(mine.states, goal.states, real)
    else:
        name = next(iter(mine.others))
        a, b = rows(mine.others[name], real).float(), rows(goal.others[name], real).float()
        error = relative_error(a, b)
    cosines = torch.cosine_similarity(a, b, dim=-1)
    return {
        "cosine": float(cosines.sum()),
        "relative_error": float(error.sqrt()) * len(a),
        "count": float(len(a)),
    }


def _of_logits(mine: Tensor, goal: Tensor, batch: Any, real: Tensor | None) -> dict[str, float]:
    sums = {"agreement": 0.0, "divergence": 0.0, "count": 0.0}
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
    follows = isinstance(ids, torch.Tensor) and mine.dim() == 3 and ids.shape == mine.shape[:2]
    for index in range(len(mine)):  # a row at a time: logits are large
        a, b = (torch.log_softmax(t[index].float(), -1) for t in (mine, goal))
        keep = real[index] if real is not None and real.shape == mine.shape[:2] else None
        if follows and isinstance(ids, torch.Tensor):
            there = slice(None) if keep is None else keep[1:]
            surprise = -a[:-1].gather(-1, ids[index, 1:, None])[:, 0][there]
            sums["surprise"] = sums.get("surprise", 0.0) + float(surprise.sum())
            sums["predicted"] = sums.get("predicted", 0.0) + float(surprise.numel())
        if keep is not None:
            a, b = a[keep], b[keep]
        sums["divergence"] += float((b.exp() * (b - a)).sum())
        same = a.argmax(-1) == b.argmax(-1)
        sums["agreement"] += float(same.sum())
        sums["count"] += float(same.numel())
    return sums
