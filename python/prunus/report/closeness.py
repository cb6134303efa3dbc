"""How close the outputs of one model are to those of another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunus._tools.running import Batch

__all__ = ["Closeness"]


class Closeness:
    """How far outputs are from those of another model: sums over batches, per output name, in float64.

    >>> quality = Closeness()
    >>> quality.add(Batch((), {}), {"y": torch.tensor([3.0, 4.0])}, {"y": torch.tensor([3.0, 3.0])})
    >>> round(quality.relative_error, 6), round(quality.cosine, 3)
    (0.2, 0.99)
    """

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}  # squared error, squared norm, cosines, positions

    def add(self, batch: Batch, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
        """One batch more. Raises ValueError (no outputs, others, of other shapes)."""
        if not before:
            raise ValueError("before: expected a model with floating-point outputs, got none")
        if before.keys() != after.keys():
            raise ValueError(f"after: expected the outputs {sorted(before)}, got {sorted(after)}")
        mask = batch.kwargs.get("attention_mask")
        for name, b in before.items():
            a = after[name]
            if a.shape != b.shape:
                raise ValueError(
                    f"after: expected output {name} of shape {tuple(b.shape)}, got {tuple(a.shape)}"
                )
            a, b = _positions(a.to(b.device), mask).double(), _positions(b, mask).double()
            cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
            # Two zero vectors agree; the library's cosine calls that 0.
            cosine[(a == b).all(-1)] = 1.0
            terms = [
                (a - b).square().sum(),
                b.square().sum(),
                cosine.sum(),
                cosine.new_tensor(cosine.numel()),
            ]
            sums = self.sums.setdefault(name, [0.0] * 4)
            self.sums[name] = [s + float(t) for s, t in zip(sums, terms, strict=True)]

    @property
    def cosine(self) -> float:
        """The mean over outputs of the mean over positions."""
        rows = self.rows()
        return sum(cosine for _, _, cosine in rows) / len(rows)

    @property
    def relative_error(self) -> float:
        """The largest of all outputs (L2)."""
        return max(error for _, error, _ in self.rows())

    def rows(self) -> list[tuple[str, float, float]]:
        """(output, relative error, mean cosine)."""
        return [
            (
                name,
                (error / norm) ** 0.5 if norm else (0.0 if error == 0 else float("inf")),
                cosines / max(1.0, count),
            )
            for name, (error, norm, cosines, count) in self.sums.items()
        ]


def _positions(output: Tensor, mask: Any) -> Tensor:
    """Rows (positions, features); without the padding where the mask fits the output."""
    if output.dim() < 2:
        return output.reshape(1, -1)
    if isinstance(mask, Tensor) and mask.dim() == 2 and output.dim() == 3 and output.shape[:2] == mask.shape:
        return output[mask.bool().to(output.device)]
    return output.reshape(-1, output.shape[-1])
