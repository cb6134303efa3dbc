"""Refit: least squares on the weights that are left, against what the teacher's layers give."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prunus._tools.interrupts import OneInterrupt
from prunus._tools.progress import progress
from prunus.recover.base import RecoverError, Recovery
from prunus.recover.data import count_tokens
from prunus.recover.layers import BlockRuns, block_fits

if TYPE_CHECKING:
    from torch import Tensor

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
        before, session.known = session.present(), None
        old: list[tuple[Tensor, Tensor]] = []
        done: dict[str, Any] = {"note": "", "interrupted": False}
        keep, after = False, before
        with OneInterrupt() as interrupt:
            try:
                done |= self._refit(session, old)
                after = session.quality()
                keep = after.score > before.score
                if not keep:
                    done["note"] = f"undone: {after}, not better than {before}"
            except KeyboardInterrupt:
                done |= {"note": "interrupted; the model is as it was before Refit", "interrupted": True}
                warnings.warn(f"recover_: {done['note']}", UserWarning, stacklevel=3)
            except ValueError:
                raise
            except Exception as error:
                message = f"recover_: Refit stopped by {error}; the model is as it was before Refit"
                raise RecoverError(message) from error
            finally:
                interrupt.hold()
                if not keep:
                    _put_back(old)
                session.known = after if keep else before
        return done

    def _refit(self, session: Session, old: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Change the model; what was before goes into `old`."""
        with session.measuring(), torch.no_grad():
            batches = list(self._batches(session))
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

    def _batches(self, session: Session) -> Iterator[tuple[Any, Tensor | None, int]]:
        """Batches, their real tokens and how many, until there are enough."""
        seen = 0
        for batch in session.source.epoch(self.seed, 0):
            batch = session.ready(batch)
            real = session.real(batch)
            count = count_tokens(batch, real)
            yield batch, real, count
            seen += count
            if seen >= self.tokens:
                return
        if not seen:
            raise ValueError("data: expected a batch to refit with, got none left")


def _put_back(old: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for tensor, value in reversed(old):
            tensor.copy_(value)
