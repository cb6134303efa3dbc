"""Pruning inside `transformers.Trainer`."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback

from prunus.families import FilterFn
from prunus.methods import Magnitude, Method
from prunus.patterns import NM, Pattern, check_sparsity
from prunus.prune import prune_
from prunus.training.schedule import check_updates, grown, stages
from prunus.training.verb import ZeroKeeper, keep_zeros

__all__ = ["PruningCallback"]

_MAGNITUDE = Magnitude()


class PruningCallback(TrainerCallback):
    """Prune while `transformers.Trainer` trains: more zeros step by step, and zeros stay zero.

    pattern: what the model has at the end; None: only the zeros that it has already are kept. Masks are
    estimated `updates` times between the fractions `begin` and `end` of all steps, with the sparsity
    s (1 - (1 - t)^3) at the part t of that way (Zhu and Gupta, arXiv:1710.01878); an N:M pattern, which has
    one sparsity, once, at `begin`. What was zero stays so. method, filter_fn: as for `prune_`, but that the
    method must do without a calibration. Logs the share of zeros as "sparsity" beside the loss.

    Raises TypeError and ValueError for fractions outside of 0..1 or in the wrong order, and for updates
    below 1; when training begins, ValueError for a model without zeros and without a pattern.

    >>> import prunus
    >>> callback = prunus.PruningCallback(prunus.Unstructured(0.8), end=0.5, updates=4)
    >>> [round(callback.sparsity_at(t), 3) for t in (0.25, 0.5, 1.0)]
    [0.463, 0.7, 0.8]
    """

    def __init__(
        self,
        pattern: Pattern | None = None,
        method: Method = _MAGNITUDE,
        begin: float = 0.0,
        end: float = 0.5,
        updates: int = 10,
        filter_fn: FilterFn | None = None,
    ) -> None:
        self.begin, self.end = check_sparsity(begin, "begin"), check_sparsity(end, "end")
        if self.begin > self.end:
            raise ValueError(f"end: expected at least begin, {begin:g}, got {end:g}")
        check_updates(updates)
        self.pattern, self.method, self.updates, self.filter_fn = pattern, method, updates, filter_fn
        self._due: dict[int, Pattern] = {}
        self._keeper: ZeroKeeper | None = None

    def sparsity_at(self, part: float) -> float:
        """The sparsity after that part, 0..1, of the way from `begin` to `end`; 0.0 where there is none."""
        return grown(getattr(self.pattern, "sparsity", 0.0), part)

    def schedule(self, steps: int) -> dict[int, Pattern]:
        """Before which of so many steps the model is pruned, and to what.

        >>> import prunus
        >>> PruningCallback(prunus.NM(2, 4), begin=0.5).schedule(10)
        {5: NM(n=2, m=4)}
        """
        if self.pattern is None:
            return {}
        first, last = round(self.begin * steps), round(self.end * steps)
        if isinstance(self.pattern, NM):
            return {min(first, steps - 1): self.pattern}
        due: dict[int, Pattern] = {}
        for i, stage in enumerate(stages(self.pattern, self.updates), 1):
            # Of two updates that fall on one step the later counts.
            due[min(first + round((last - first) * i / self.updates), steps - 1)] = stage
        return due

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Plan the steps; a run that goes on from a checkpoint keeps the zeros it had."""
        self._due = self.schedule(state.max_steps)
        if self.pattern is None or state.global_step > 0:
            self._keep(given["model"], given["optimizer"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Prune where it is time to."""
        pattern = self._due.pop(state.global_step, None)
        if pattern is None:
            return
        prune_(given["model"], pattern, self.method, filter_fn=self.filter_fn)
        self._keep(given["model"], given["optimizer"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Add the share of zeros to what is logged."""
        if logs is not None:
            logs["sparsity"] = self.sparsity
            if state.log_history:
                state.log_history[-1]["sparsity"] = logs["sparsity"]

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Let go of the optimiser; the zeros are there."""
        if self._keeper is not None:
            self._keeper.remove()

    @property
    def sparsity(self) -> float:
        """The share of zeros in the layers that are pruned; 0.0 before the first time."""
        masks = self._keeper.masks.values() if self._keeper is not None else ()
        return 1.0 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks) if masks else 0.0

    def _keep(self, model: nn.Module, optimizer: Any) -> None:
        if self._keeper is not None:
            self._keeper.remove()
        # Of accelerate's wrapper the optimiser inside: hooks are called there.
        self._keeper = keep_zeros(model, getattr(optimizer, "optimizer", optimizer), self.filter_fn)
