"""The best state of a run so far."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.recover.quality import Quality

__all__ = ["Best"]


class Best:
    """A copy of the parameters as they were when the model was best: `state`, with its `quality` and the
    `step` it was found at."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], quality: Quality) -> None:
        self._parameters = parameters
        self.take(quality, 0)

    def take(self, quality: Quality, step: int) -> None:
        """The parameters as they are now, whatever was before."""
        self.quality, self.step = quality, step
        self.state: Mapping[str, Tensor] = {n: p.detach().clone() for n, p in self._parameters.items()}

    def put(self, state: Mapping[str, Tensor], quality: Quality, step: int) -> None:
        """What an earlier process had found."""
        self.state, self.quality, self.step = state, quality, step

    @torch.no_grad()
    def restore(self) -> None:
        """Make the parameters what they were then."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.state[name])

    def __str__(self) -> str:
        return str(self.quality)
