"""Refit: least squares on the weights that are left, against what the teacher's layers give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prunus._tools.progress import progress
from prunus.recover.base import Recovery
from prunus.recover.blocks import BlockRuns
from prunus.recover.layers import block_fits
from prunus.recover.whole import Old, all_or_nothing

if TYPE_CHECKING:
    from prunus.recover.session import Session

__all__ = ["Refit"]


@dataclass(frozen=True, kw_only=True)
class Refit(Recovery):
    """The best weights and biases for one layer after another, without training.

    Block by block: the inputs are those of the pruned model, whose earlier blocks are refitted already; the
    outputs wanted are those of the teacher's layer. Zeros stay zero. Layers that lost outputs (neurons,
    heads) have no counterpart to follow and stay; those that lost inputs are refitted.

    Parameters
    ----------
    tokens : of the data, that the statistics are taken from.
    damping : pulls towards the present weights, as a share of each input's own mean square.
    seed : of the choice of the data.

    What makes the held-out quality worse is undone, and said in the report; so is Ctrl-C. Memory: the
    statistics of one block, X^T X in float64. Raises ValueError for wrong options.

    >>> str(Refit(damping=0.1))
    'Refit(damping=0.1)'
    """

    tokens: int = 8192
    damping: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int):
            raise TypeError(f"tokens: expected an integer, got {type(self.tokens).__name__}")
        if self.tokens < 1:
            raise ValueError(f"tokens: expected >= 1, got {self.tokens}")
        if not (self.damping > 0 and math.isfinite(self.damping)):
            raise ValueError(f"damping: expected a finite number > 0, got {self.damping}")

    def run(self, session: Session) -> dict[str, Any]:
        """See `Recovery.run`."""
        return all_or_nothing(session, "Refit", lambda old: self._refit(session, old))

    def _refit(self, session: Session, old: Old) -> dict[str, Any]:
        """Change the model; what was before goes into `old`."""
        with session.measuring(), torch.no_grad():
            batches = session.sample(self.tokens, self.seed)
            groups = block_fits(session)
            layers = sum(len(fits) for _, fits in groups)
            if not layers:
                raise ValueError("model: expected a layer with as many outputs as the teacher's, got none")
            runs = BlockRuns(session, [(batch, real) for batch, real, _ in batches])
            for pair, fits in progress(groups, "refitting", total=len(groups)):
                if fits:
                    runs.gather(pair, fits)
                for fit in fits:
                    old += [(tensor, tensor.clone()) for tensor in fit.tensors()]
                    fit.solve(self.damping)
                runs.leave(pair)
        return {"layers": layers, "tokens": sum(count for _, _, count in batches)}
