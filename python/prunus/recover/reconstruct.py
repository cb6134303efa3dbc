"""Reconstruct: train one block after another to give what the teacher's block gives."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from prunus._tools.progress import progress
from prunus.recover.base import Recovery
from prunus.recover.blocks import BlockRuns
from prunus.recover.objective import relative_error
from prunus.recover.optimizer import make_optimizer, set_rates
from prunus.recover.precision import autocast
from prunus.recover.rows import shuffled
from prunus.recover.session import trainable
from prunus.recover.states import SHORT, keep_masks, ready_to_train
from prunus.recover.whole import Old, all_or_nothing, put_back

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.recover.pairs import Pair
    from prunus.recover.session import Session

__all__ = ["Reconstruct"]

CLIP = 1.0


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Recovery):
    """A block at a time: inputs from the pruned model, targets from the teacher.

    Activations, gradients and the optimiser's averages are those of one block: for models that are too
    large for `Distill`, and a start for it. A block that training made worse on its own batches keeps its
    weights; where the held-out quality did not rise, everything is undone and the report says so.

    Parameters
    ----------
    steps : of each block. minutes : of all together, shared equally; whichever ends first. Only `steps`
        alone gives the same numbers again.
    tokens : of the data, whose hidden states are kept for both models.
    learning_rate : as in `Distill`. seed : of the data and its order.

    Raises ValueError for wrong options, and for models whose blocks cannot run on their own.

    >>> str(Reconstruct(steps=50))
    'Reconstruct(steps=50)'
    """

    steps: int = 100
    minutes: float | None = None
    tokens: int = 16384
    learning_rate: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name, number in (("steps", self.steps), ("tokens", self.tokens)):
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{name}: expected an integer, got {type(number).__name__}")
            if number < 1:
                raise ValueError(f"{name}: expected >= 1, got {number}")
        for name, value in (("minutes", self.minutes), ("learning_rate", self.learning_rate)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: expected a finite number > 0, got {value}")

    def run(self, session: Session) -> dict[str, Any]:
        """See `Recovery.run`."""
        return all_or_nothing(session, "Reconstruct", lambda old: self._reconstruct(session, old))

    def _reconstruct(self, session: Session, old: Old) -> dict[str, Any]:
        """Change the model; what was before goes into `old`."""
        free = trainable(session.model, session.filter_fn)
        blocks = [(pair, _inside(free, pair.student)) for pair in session.pairs]
        if not any(parameters for _, parameters in blocks):
            raise ValueError("model: expected transformer blocks with parameters to train, got none")
        start = time.perf_counter()
        steps = better = 0
        with session.measuring():
            batches = session.sample(self.tokens, self.seed)
            with torch.no_grad():
                runs = BlockRuns(session, [(batch, real) for batch, real, _ in batches])
            if not runs.chained:
                raise ValueError("model: expected blocks that feed each other, got other work between them")
            reals = [real for _, real, _ in batches]
            for index, (pair, parameters) in enumerate(progress(blocks, "reconstructing")):
                if parameters:
                    old += [(p, p.detach().clone()) for p in parameters.values()]
                    block = _Block(session, runs, pair, parameters, reals)
                    took, improved = block.train(self, self._share(start, index, len(blocks)))
                    steps, better = steps + took, better + improved
                with torch.no_grad():
                    runs.leave(pair)
        note = f"{better} of {len(blocks)} blocks came closer"
        return {"steps": steps, "tokens": sum(number for *_, number in batches), "note": note}

    def _share(self, start: float, index: int, blocks: int) -> float:
        """Seconds for this block: an equal part of what is left."""
        if self.minutes is None:
            return math.inf
        return max(0.0, start + 60.0 * self.minutes - time.perf_counter()) / (blocks - index)


class _Block:
    """One block in training; goals: what the teacher has behind it, a tensor a batch."""

    def __init__(
        self,
        session: Session,
        runs: BlockRuns,
        pair: Pair,
        parameters: dict[str, nn.Parameter],
        reals: list[Tensor | None],
    ) -> None:
        self._session, self._runs, self._pair = session, runs, pair
        self._parameters, self._reals = parameters, reals
        with torch.no_grad():
            self._goals = [runs.goal(pair, number) for number in range(len(reals))]

    def train(self, how: Reconstruct, seconds: float) -> tuple[int, bool]:
        """Steps taken, and whether the block came closer; if not it is as before."""
        before, state = self._error(), {n: p.detach().clone() for n, p in self._parameters.items()}
        model, step, start = self._session.model, 0, time.perf_counter()
        short = any(p.dtype in SHORT for p in model.parameters())  # the stored hidden states are, too
        with ready_to_train(model, self._session.teacher, self._parameters):
            optimizer = make_optimizer(self._parameters, how.learning_rate)
            with keep_masks(model, optimizer, f"{self._pair.student}."):
                for number in self._order(how.seed):
                    fraction = max(step / how.steps, (time.perf_counter() - start) / max(seconds, 1e-9))
                    if fraction >= 1.0:
                        break
                    set_rates(optimizer, fraction)
                    with autocast(self._session.device, short):
                        loss = self._loss(number)
                    if not math.isfinite(float(loss.detach())):
                        where = f"step {step + 1} of {self._pair.student}"
                        raise RuntimeError(f"a loss of {float(loss.detach())} in {where}")
                    loss.backward()  # type: ignore[no-untyped-call]
                    torch.nn.utils.clip_grad_norm_(list(self._parameters.values()), CLIP)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    step += 1
        improved = self._error() < before
        if not improved:
            put_back([(self._parameters[name], value) for name, value in state.items()])
        return step, improved

    def _order(self, seed: int) -> Iterator[int]:
        for epoch in count():
            yield from shuffled(range(len(self._reals)), seed, epoch)

    def _loss(self, number: int) -> Tensor:
        real, goal = self._reals[number], self._goals[number]
        return relative_error(self._runs.run_block(self._pair, number), goal, real)

    @torch.no_grad()
    def _error(self) -> float:
        return sum(float(self._loss(number)) for number in range(len(self._reals)))


def _inside(parameters: dict[str, nn.Parameter], block: str) -> dict[str, nn.Parameter]:
    return {name: p for name, p in parameters.items() if name.startswith(f"{block}.")}
