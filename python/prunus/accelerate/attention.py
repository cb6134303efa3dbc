"""Attention of a transformers model by our own operator, where it is measured faster."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from prunus._tools.timing import Racer, take_laps
from prunus.accelerate.fused import MAX_PASSES, MIN_PASSES, SECONDS
from prunus.nn.attention import Asked

__all__ = ["AttentionCalls", "race_attention"]


@dataclass
class AttentionCalls:
    """What a model asked of its attention: one call of every kind, and how many there were."""

    counts: Counter[Any] = field(default_factory=Counter)
    first: dict[Any, Asked] = field(default_factory=dict)

    def note(self, asked: Asked) -> None:
        """One more."""
        kind = tuple(None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in asked.tensors)
        self.counts[kind] += 1
        self.first.setdefault(kind, asked)

    def allowed(self, exact: bool) -> bool:
        """Whether bfloat16 is not less than was asked for. exact: only where it is what they are."""
        dtypes = {kind[0][2] for kind in self.counts}
        return bool(dtypes) and (not exact or dtypes == {torch.bfloat16})


def race_attention(calls: AttentionCalls, min_speedup: float) -> dict[str, Any] | None:
    """A row (name, kind, ms_before, ms_after) where ours takes less time for all the calls; else None."""
    asked = {kind: call for kind, call in calls.first.items() if call.known()}
    if not asked:  # others stay as they are
        return None
    contenders = [call.theirs for call in asked.values()], [call.ours for call in asked.values()]
    racer = Racer(contenders, [calls.counts[kind] for kind in asked])
    take_laps([racer], SECONDS, MIN_PASSES, MAX_PASSES, "measuring attention")
    before, after = racer.best_ms(0), racer.best_ms(1)
    if before < min_speedup * after:
        return None
    return {"name": "attention", "kind": "attention", "ms_before": before, "ms_after": after}
