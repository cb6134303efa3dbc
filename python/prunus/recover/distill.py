"""Distill: train the pruned model, end to end, to give what its teacher gives."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from prunus.recover.base import Recovery

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.recover.session import Session

__all__ = ["Distill"]

Precision = Literal["auto", "float32", "bfloat16"]
MINUTES = 10.0


@dataclass(frozen=True, kw_only=True)
class Distill(Recovery):
    """Knowledge distillation without labels: the teacher's hidden states and outputs are the targets.

    Parameters
    ----------
    minutes, steps : the budget; with both, whichever ends first. Neither: ten minutes. Only `steps` alone
        gives the same numbers again: what a minute holds depends on the machine.
    learning_rate : of AdamW, as a share of each weight's own size (the root mean square of what is not
        zero), so that one value serves every model; it warms up and falls to zero over the budget.
    loss : (output, batch) -> scalar tensor, added to the loss with the factor `loss_weight`: a task of yours.
        With it, the labels of the batches reach the model.
    accumulate : batches of one step. precision : of the forward passes, "bfloat16" under torch.autocast;
        "auto" times both and takes the faster. gradient_checkpointing : less memory for a third more time,
        where the model offers it.
    checkpoint : a file to go on from after the process was killed; written in one step, now and then. It
        stays when the run is done: running again gives the result at once.
    seed : of the order of the data.

    Raises TypeError and ValueError for wrong arguments.

    >>> str(Distill(minutes=30))
    'Distill(minutes=30)'
    """

    minutes: float | None = None
    steps: int | None = None
    learning_rate: float = 0.01
    loss: Callable[[Any, Any], Tensor] | None = None
    loss_weight: float = 1.0
    accumulate: int = 1
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("minutes", self.minutes), ("learning_rate", self.learning_rate)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: expected a finite number > 0, got {value}")
        for name, count in (("steps", self.steps), ("accumulate", self.accumulate)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
                raise TypeError(f"{name}: expected an integer, got {type(count).__name__}")
            if count is not None and count < 1:
                raise ValueError(f"{name}: expected >= 1, got {count}")
        if self.precision not in get_args(Precision):
            words = ", ".join(get_args(Precision))
            raise ValueError(f"precision: expected {words}, got {self.precision!r}")
        if self.loss is not None and not callable(self.loss):
            raise TypeError(f"loss: expected a function, got {type(self.loss).__name__}")

    @property
    def seconds(self) -> float | None:
        """The budget of time; None where only steps count."""
        if self.minutes is None and self.steps is not None:
            return None
        return 60.0 * (MINUTES if self.minutes is None else self.minutes)

    def run(self, session: Session) -> dict[str, Any]:
        """Train `session.model`; see `Recovery.run`."""
        from prunus.recover.train import Training

        with Training(self, session) as training:
            return training.run()
