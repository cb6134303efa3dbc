"""Random: the baseline that a method must beat."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunus.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Method):
    """Uniform random scores; weights that are zero already go first.

    The numbers depend on `seed` and on the layer's name, so a layer gets the same mask whatever else is
    pruned, and masks of rising sparsity are nested.

    >>> import torch
    >>> from prunus.calibration import Stats
    >>> scores = Random(seed=1).scores(torch.ones(2, 3), Stats("fc"))
    >>> bool((scores == Random(seed=1).scores(torch.ones(2, 3), Stats("fc"))).all())
    True
    """

    seed: int = 0
    name: ClassVar[str] = "random"

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        """Numbers in 0..1, float32; -1 where the weight is zero."""
        import torch

        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {stats.name}".encode()))
        numbers = torch.rand(weight.shape, generator=generator, device="cpu").to(weight.device)
        return numbers.masked_fill_(weight == 0, -1.0)
