"""A tensor as it is stored: as it is, or as a bit mask and the values that the mask keeps.

Kinds: "dense", stored under its own name. "masked": NAME:mask, uint8, one bit per element in row-major order,
lowest bit first, and NAME:values, the kept elements in the same order. "scaled": values are int8, and
NAME:scales holds one float32 factor per row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prunus.checkpoint.expect import describe, expect

__all__ = ["PARTS", "decode", "encode"]

# kind -> what is behind the tensor's name in the names of what is stored
PARTS = {"dense": ("",), "masked": (":mask", ":values"), "scaled": (":mask", ":values", ":scales")}
# dtypes that a mask saves space of
MASKED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Below this share of zeros the mask costs as much as it saves, or is not worth the detour.
MIN_ZEROS = 1 / 16


def encode(tensor: Tensor, packed: str | None) -> tuple[str, list[Tensor]]:
    """Kind and stored parts of a tensor; packed: the dtype of the values if it is a SparseLinear's weight.

    >>> kind, (mask, values) = encode(torch.eye(2), None)
    >>> kind, mask.tolist(), values.tolist()
    ('masked', [9], [1.0, 1.0])
    """
    kept = _kept(tensor)
    if kept is None or (packed is None and int(kept.sum()) > (1 - MIN_ZEROS) * tensor.numel()):
        return "dense", [tensor]
    mask = torch.from_numpy(np.packbits(kept.numpy(), bitorder="little"))
    if packed != "int8":
        return "masked", [mask, tensor.reshape(-1)[kept]]
    # As pack does it: the largest value of a row becomes 127. Exact up to the last bit of the scale.
    largest = tensor.abs().amax(1) if tensor.numel() else tensor.new_zeros(tensor.shape[0])
    scales = largest / 127
    values = torch.round(tensor / torch.where(scales > 0, scales, 1.0)[:, None]).to(torch.int8)
    return "scaled", [mask, values.reshape(-1)[kept], scales]


def decode(name: str, kind: str, sizes: list[int], parts: Sequence[Tensor]) -> Tensor:
    """The tensor `name` of these sizes from its stored parts; FormatError naming the part that does not fit.

    >>> decode("w", "masked", [2, 2], encode(torch.eye(2), None)[1]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if kind == "dense":
        expect(list(parts[0].shape) == sizes, f"tensor {name!r}", f"shape {sizes}", describe(parts[0]))
        return parts[0]
    mask = _read_mask(f"tensor {name + ':mask'!r}", parts[0], sizes)
    values = parts[1]
    _check_values(f"tensor {name + ':values'!r}", values, kind, int(mask.sum()))
    dense = torch.zeros(mask.numel(), dtype=values.dtype, device="cpu")
    dense[mask] = values
    dense = dense.reshape(sizes)
    if kind == "masked":
        return dense
    scales = parts[2]
    good = len(sizes) == 2 and scales.dtype == torch.float32 and list(scales.shape) == sizes[:1]
    expect(good, f"tensor {name + ':scales'!r}", f"float32 of shape {sizes[:1]}", describe(scales))
    return dense * scales[:, None]


def _read_mask(which: str, bits: Tensor, sizes: list[int]) -> Tensor:
    """Flat bool mask of a tensor of these sizes from its bits."""
    count = math.prod(sizes)
    good = bits.dtype == torch.uint8 and bits.dim() == 1 and bits.numel() == -(-count // 8)
    expect(good, which, f"{-(-count // 8)} bytes for shape {sizes}", describe(bits))
    kept = np.unpackbits(bits.numpy(), bitorder="little")
    expect(not kept[count:].any(), which, "zero bits after the last element", "ones")
    return torch.from_numpy(kept[:count].view(np.bool_))


def _check_values(which: str, values: Tensor, kind: str, count: int) -> None:
    right = values.dtype in ((torch.int8,) if kind == "scaled" else MASKED)
    what = "1-D int8" if kind == "scaled" else "1-D floating-point"
    expect(right and values.dim() == 1, which, f"a {what} tensor", describe(values))
    expect(values.numel() == count, which, f"{count} values", str(values.numel()))


def _kept(tensor: Tensor) -> Tensor | None:
    """Flat bool mask of the elements that are not +0.0 in bits (a -0.0 is kept: the file is exact); None
    where a mask makes no sense."""
    if tensor.dim() < 2 or not tensor.is_floating_point() or tensor.element_size() == 1:
        return None
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.reshape(-1).view(bits) != 0
