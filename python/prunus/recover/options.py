"""What `Distill` can be asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from prunus.recover.base import Recovery
from prunus.recover.gradual import Gradual

__all__ = ["Options"]

Precision = Literal["auto", "float32", "bfloat16"]
MINUTES = 10.0


@dataclass(frozen=True, kw_only=True)
class Options(Recovery):
    """The fields of `Distill`, which explains them; TypeError and ValueError for wrong ones."""

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
    gradual: Gradual | None = None

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
        if self.gradual is not None and not isinstance(self.gradual, Gradual):
            got = type(self.gradual).__name__
            raise TypeError(f"gradual: expected Gradual(pattern) or None, got {got}")
        if self.loss is not None and not callable(self.loss):
            raise TypeError(f"loss: expected a function, got {type(self.loss).__name__}")

    @property
    def seconds(self) -> float | None:
        """The budget of time; None where only steps count."""
        if self.minutes is None and self.steps is not None:
            return None
        return 60.0 * (MINUTES if self.minutes is None else self.minutes)
