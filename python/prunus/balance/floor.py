"""What a balanced model may lose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from prunus._tools.running import Batch, evaluating, output_tensors
from prunus.accelerate.answers import relative_error

__all__ = ["Answers"]


class Answers:
    """The outputs of a model as it is now, to compare with later ones.

    >>> model = nn.Linear(2, 2)
    >>> answers = Answers(model, [Batch((torch.ones(1, 2),), {})])
    >>> answers.error()
    0.0
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, batches
        self.expected = self._now()

    def _now(self) -> list[dict[str, torch.Tensor]]:
        with evaluating(self.model):
            return [output_tensors(batch.run(self.model)) for batch in self.batches]

    def error(self) -> float:
        """The largest relative error (L2) of an output today."""
        return relative_error(self.expected, self._now())

    def check(self, most: float | None) -> float:
        """The error of today. Raises ValueError where it is above `most`."""
        error = self.error()
        if most is not None and error > most:
            raise ValueError(
                f"max_error: expected outputs within {most:g} of the dense ones at this target, got "
                f"{error:.3g}: ask for less speed, or give a method or pattern that loses less"
            )
        return error
