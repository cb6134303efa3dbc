"""A packed weight in the format of the device that multiplies with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prunus._core import FormatError
from prunus.ops.torch_ops import buffer_tensor
from prunus.packed import PackedWeight, array_view, pack

if TYPE_CHECKING:
    from prunus.packed import DtypeLike

__all__ = ["pack_for_cuda", "packed_for", "refuse_training"]


def pack_for_cuda(weight: Tensor, mask: Tensor | None, dtype: DtypeLike | None, format: str) -> PackedWeight:
    """A weight (n, k) on CUDA as `prunus.pack` packs it, in format "warp"; the bytes are on the CPU.

    Raises ValueError for a format that is neither "auto" nor "warp", and what `pack` raises.

    >>> pack_for_cuda(torch.eye(2), None, "int8", "auto").format
    'warp'
    """
    if format not in ("auto", "warp"):
        raise ValueError(f"format: expected 'auto' or 'warp' on {weight.device}, got {format!r}")
    return pack(weight.detach().cpu(), None if mask is None else mask.cpu(), dtype, "warp")


def packed_for(packed: Tensor, cuda: bool) -> Tensor:
    """The bytes of the same values in a format that CUDA, or the CPU, multiplies; they are on the CPU unless
    they are `packed` itself.

    Raises FormatError where that format cannot hold them.

    >>> p = buffer_tensor(pack(torch.eye(2)))
    >>> PackedWeight(packed_for(p, cuda=True).numpy()).format, packed_for(p, cuda=False) is p
    ('warp', True)
    """
    weight = PackedWeight(array_view(packed))
    if (weight.format == "warp") == cuda:
        return packed
    format = "warp" if cuda else "auto"
    try:
        return buffer_tensor(pack(weight.to_dense(), dtype=weight.dtype, format=format))
    except ValueError as error:
        raise FormatError(f"packed: expected a weight that format {format!r} can hold, got {error}") from None


def refuse_training(device: torch.device, trainable: bool) -> None:
    """Raises ValueError where a layer that trains its packed weight would be on another device than the CPU.

    >>> refuse_training(torch.device("cuda", 0), trainable=False)
    """
    if trainable and device.type != "cpu":
        raise ValueError(
            f"trainable: expected a layer on the CPU, which alone trains packed weights, got {device} "
            "(train_values_(False) freezes the layer)"
        )
