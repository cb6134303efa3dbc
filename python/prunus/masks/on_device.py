"""Selection, normalising and masks where the tensors are: on a CUDA device, with the bits of the CPU.

The kernels run on torch's current stream, in memory that torch gives. A selection waits for one number from
the device, which says whether a score was NaN; `normalize` and `apply_mask_` wait for nothing. The same
functions take CPU tensors when the kernels' model on the host is open (tests/cuda).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

import prunus._core as _core
from prunus._tools.arrays import as_tensor_on
from prunus._tools.cuda import stream_of
from prunus.patterns import NM, Block, Pattern, Unstructured

__all__ = ["apply_mask_", "normalize", "select", "select_global"]


@dataclass(frozen=True)
class _Plane:
    """A tensor as rows whose entries are neighbours in memory.

    rows: (rows, columns). transposed: the caller's row i is column i here.
    """

    rows: Tensor
    transposed: bool = False

    @property
    def matrix(self) -> tuple[int, int, int, int, str]:
        """As the core takes it."""
        n, k = self.rows.shape
        stride = self.rows.stride(0) if n > 1 else k
        return self.rows.data_ptr(), n, k, stride, _word(self.rows)


def normalize(w: Tensor, axis: int) -> Tensor:
    """`prunus.normalize` on the tensor's device."""
    w = as_tensor_on(w, "w", str(w.device))
    _check_matrix(w, "w")
    if axis not in (0, 1):
        raise ValueError(f"axis: expected 0 (columns) or 1 (rows), got {axis}")
    plane = _plane_of(w, "w")
    by_row = (axis == 1) != plane.transposed
    out = torch.empty(plane.rows.shape, dtype=w.dtype, device=w.device)
    if w.numel() > 0:
        n, k = plane.rows.shape
        with _on_device_of(w):
            room = _room(w, _core.cuda_normalize_bytes((n, k), by_row))
            _core.cuda_normalize(plane.matrix, by_row, out.data_ptr(), room.data_ptr(), stream_of(w))
    return out.t() if plane.transposed else out


def select(scores: Tensor, pattern: Pattern) -> Tensor:
    """`prunus.select` on the tensor's device; the mask is contiguous."""
    scores = as_tensor_on(scores, "scores", str(scores.device))
    if isinstance(pattern, Unstructured) and pattern.scope == "tensor":
        _plane_of(scores, "scores")
        return _select_together([scores], pattern.sparsity, ["scores"])[0]
    _check_matrix(scores, "scores")
    k = scores.shape[1]
    if isinstance(pattern, NM) and k % pattern.m != 0:
        raise ValueError(f"scores: expected rows of a multiple of m = {pattern.m} entries, got {k}")
    plane = _plane_of(scores, "scores")
    if isinstance(pattern, NM):
        return _select_lines(scores, pattern.m, pattern.m - pattern.n)
    if isinstance(pattern, Block):
        return _select_blocks(scores, plane, pattern)
    lines = scores.t() if pattern.scope == "column" else scores
    mask = _select_lines(lines, lines.shape[1], _core.pruned_count(pattern.sparsity, lines.shape[1]), scores)
    return mask.t().contiguous() if pattern.scope == "column" else mask


def select_global(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """`prunus.select_global` on the device of the first tensor, where all must be."""
    names = [f"scores[{i}]" for i in range(len(scores))]
    device = str(scores[0].device)
    checked = [as_tensor_on(s, name, device) for s, name in zip(scores, names, strict=True)]
    for s, name in zip(checked, names, strict=True):
        _plane_of(s, name)
    return _select_together(checked, sparsity, names)


def apply_mask_(w: Tensor, mask: object) -> None:
    """`prunus.apply_mask_` on the device of w, where the mask must be too."""
    device = str(w.device)
    plain = as_tensor_on(w, "w", device, writable=True)
    keep = as_tensor_on(mask, "mask", device, dtypes=("bool",))
    if keep.shape != plain.shape:
        raise ValueError(f"mask: expected shape {tuple(plain.shape)}, got {tuple(keep.shape)}")
    plane = _plane_of(plain, "w")
    if w.numel() == 0:
        return
    if w.dim() > 2 and not keep.is_contiguous():
        raise ValueError(f"mask: expected contiguous memory, got byte strides {_byte_strides(keep)}")
    rows, flags = plane.rows, keep.t() if plane.transposed else keep
    if w.dim() != 2:
        flags = flags.reshape(rows.shape)
    elif rows.is_contiguous() and flags.is_contiguous():
        rows, flags = rows.view(1, -1), flags.view(1, -1)
    strides = (flags.stride(0), flags.stride(1))
    with _on_device_of(w):
        _core.cuda_apply_mask(_Plane(rows).matrix, flags.data_ptr(), strides, stream_of(w))


def _select_together(all_scores: Sequence[Tensor], sparsity: float, names: Sequence[str]) -> list[Tensor]:
    """One budget over all of them."""
    flat = [s.contiguous() for s in all_scores]
    masks = [_mask(s.shape, s) for s in flat]
    pairs = [(s, mask) for s, mask in zip(flat, masks, strict=True) if s.numel() > 0]
    if not pairs:
        return masks
    with _on_device_of(flat[0]):
        nan = flat[0].new_zeros(len(pairs), dtype=torch.int32)
        room = _room(flat[0], _core.cuda_select_bytes([s.numel() for s, _ in pairs]))
        prune = _core.pruned_count(sparsity, sum(s.numel() for s in flat))
        arrays = [_array(s, mask) for s, mask in pairs]
        _core.cuda_select(arrays, nan.data_ptr(), prune, room.data_ptr(), stream_of(flat[0]))
    if any(nan.tolist()):
        for s, name in zip(all_scores, names, strict=True):
            _refuse_nan(s, name)
    return masks


def _select_lines(scores: Tensor, length: int, prune: int, named: Tensor | None = None) -> Tensor:
    """The same for every `length` neighbours of a row. named: the caller's scores, if they are not these."""
    flat = scores.contiguous()
    mask = _mask(flat.shape, flat)
    if flat.numel() == 0:
        return mask
    with _on_device_of(flat):
        nan = flat.new_zeros(1, dtype=torch.int32)
        room = _room(flat, _core.cuda_select_bytes([length]))
        array, stream = _array(flat, mask), stream_of(flat)
        _core.cuda_select_lines(array, nan.data_ptr(), length, prune, room.data_ptr(), stream)
    if nan.item():
        _refuse_nan(scores if named is None else named, "scores")
    return mask


def _select_blocks(scores: Tensor, plane: _Plane, pattern: Block) -> Tensor:
    if pattern.shape == (1, 1):
        return _select_together([scores], pattern.sparsity, ["scores"])[0]
    if scores.numel() == 0:
        return _mask(scores.shape, scores)
    # Sums are added in the order of memory, as on the CPU.
    shape = (plane.rows.shape[0], plane.rows.shape[1])
    height, width = reversed(pattern.shape) if plane.transposed else pattern.shape
    down, across = -(-shape[0] // height), -(-shape[1] // width)
    sums = torch.empty((down, across), dtype=torch.float64, device=scores.device)
    with _on_device_of(scores):
        _core.cuda_block_sums(plane.matrix, (height, width), sums.data_ptr(), stream_of(scores))
    turned = sums.t() if plane.transposed else sums
    try:
        keep = _select_together([turned], pattern.sparsity, ["sums"])[0]
    except ValueError:
        _refuse_nan(scores, "scores")
        raise ValueError("scores: expected blocks with a sum, got one that holds both inf and -inf") from None
    keep = keep.t().contiguous() if plane.transposed else keep
    mask = _mask(shape, scores)
    with _on_device_of(scores):
        block = (height, width)
        _core.cuda_expand_blocks(keep.data_ptr(), shape, block, mask.data_ptr(), stream_of(scores))
    return mask.t().contiguous() if plane.transposed else mask


def _refuse_nan(scores: Tensor, name: str) -> None:
    """The sentence of the CPU, if there is a NaN; only on the way to an error."""
    nan = scores.isnan().flatten()
    count = int(nan.sum())
    if count > 0:
        first = int(nan.nonzero()[0])
        raise ValueError(f"{name}: expected no NaN, got {count}, the first at flat index {first}")


def _plane_of(tensor: Tensor, name: str) -> _Plane:
    """What the CPU takes without a copy is taken, everything else refused (bindings/pruning.cpp)."""
    if tensor.dim() == 0:
        raise ValueError(f"{name}: expected at least 1 dimension, got 0")
    if tensor.dim() == 2:
        (n, k), (down, right) = tensor.shape, tensor.stride()
        if k <= 1 or right == 1 or n == 0:
            return _Plane(tensor)
        if n == 1 or down == 1:
            return _Plane(tensor.t(), transposed=True)
    elif tensor.dim() == 1:
        side_by_side = tensor.stride(0) == 1 or len(tensor) <= 1
        return _Plane(tensor[None] if side_by_side else tensor[:, None])
    elif tensor.is_contiguous():
        return _Plane(tensor.view(1, -1) if tensor.numel() > 0 else tensor.reshape(1, 0))
    raise ValueError(
        f"{name}: expected contiguous memory, or a matrix with contiguous rows or columns, "
        f"got byte strides {_byte_strides(tensor)}"
    )


def _check_matrix(tensor: Tensor, name: str) -> None:
    if tensor.dim() != 2:
        raise ValueError(f"{name}: expected 2 dimensions (n, k), got {tensor.dim()}")


def _byte_strides(tensor: Tensor) -> tuple[int, ...]:
    return tuple(stride * tensor.itemsize for stride in tensor.stride())


def _word(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _mask(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=torch.bool, device=like.device)


def _room(like: Tensor, size: int) -> Tensor:
    """Memory for the kernels, whole words of 16 bytes."""
    return torch.empty(-(-size // 16) * 2, dtype=torch.float64, device=like.device)


def _array(scores: Tensor, mask: Tensor) -> tuple[int, int, str, int]:
    return scores.data_ptr(), mask.data_ptr(), _word(scores), scores.numel()


def _on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Kernels start on CUDA's current device."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)
