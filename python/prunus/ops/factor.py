"""A packed weight with its bias, where an operator takes two of them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Factor"]


class Factor(NamedTuple):
    """What x is multiplied with: the bytes of a packed weight (1-D uint8), and its bias (n,) or None.

    >>> import prunus, torch
    >>> Factor(prunus.pack(torch.eye(2)).tensor, None).bias is None
    True
    """

    packed: Tensor
    bias: Tensor | None
