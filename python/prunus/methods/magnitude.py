"""Magnitude: keep the largest weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from prunus.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["Magnitude"]

Normalize = Literal["row", "column"]


@dataclass(frozen=True)
class Magnitude(Method):
    """score = |w|, optionally after scaling every row (n) or column (k) of the weight to unit L2 norm.

    normalize=None compares raw weights; "column" undoes different input scales: in a pre-LN model it is
    invariant to moving a channel's scale between the norm and the Linear; "row" gives every output the same
    footing. Raises ValueError for another word. Source: Han et al., arXiv:1506.02626.

    >>> import torch
    >>> w = torch.tensor([[3.0, 0.1], [4.0, 0.2]])
    >>> Magnitude("column").scores(w, None).round(decimals=2).tolist()
    [[0.6000000238418579, 0.44999998807907104], [0.800000011920929, 0.8899999856948853]]
    """

    normalize: Normalize | None = None
    name: ClassVar[str] = "magnitude"
    variants: ClassVar[dict[str, dict[str, Any]]] = {w: {"normalize": w} for w in get_args(Normalize)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize is not None and self.normalize not in get_args(Normalize):
            raise ValueError(f"normalize: expected None, 'row' or 'column', got {self.normalize!r}")

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        """|w| in the dtype of `weight`; normalised ones in float32 or float64."""
        if self.normalize is None:
            return weight.abs()
        from prunus._tools.cuda import has_kernels
        from prunus.masks import normalize

        wide = weight if weight.dtype.itemsize > 4 else weight.float()
        wide = wide if has_kernels(wide) else wide.cpu()
        unit = normalize(wide.contiguous(), axis=1 if self.normalize == "row" else 0)
        return unit.abs_().to(weight.device)
