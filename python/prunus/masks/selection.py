"""The pruning backend: scores in, masks out (True = keep), numpy arrays or torch tensors, where they are.

Selection is exact: of every group of g entries floor(sparsity * g + 0.5) are pruned, the lowest scores first
and among equal scores the later entry first. The result does not depend on the number of threads, and a mask
at higher sparsity is a subset of the one at lower sparsity.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

import numpy as np

import prunus._core as _core
from prunus._tools.arrays import ArrayT, as_array, same_shape, wrap
from prunus._tools.cuda import is_cuda, open_library
from prunus.patterns import NM, Block, Pattern, Unstructured, check_sparsity

__all__ = ["apply_mask_", "normalize", "select", "select_global"]


def normalize(w: ArrayT, axis: int) -> ArrayT:
    """Divide every row (axis=1) or column (axis=0) of w (n, k) by its L2 norm: a new array of the same dtype.

    float32, float64, float16, bfloat16. Sums are float64 and cannot overflow or underflow. Lines of zeros
    stay zero. NaN makes its line NaN; inf becomes NaN and the rest of its line zero. CUDA tensors are
    computed where they are, without waiting for the device.

    Raises TypeError when w is no array or axis no integer, ValueError when w is no matrix with contiguous
    rows or columns or axis is not 0 or 1, RuntimeError for a CUDA tensor without the CUDA kernels.

    >>> normalize(np.array([[3.0, 4.0], [0.0, 0.0]]), axis=1)
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis: expected an integer, got {type(axis).__name__}")
    if is_cuda(w):
        return cast("ArrayT", _on_device("w").normalize(w, int(axis)))
    view = as_array(w, "w")
    return cast("ArrayT", wrap(_core.normalize(view.array, view.dtype, int(axis)), view, view.dtype))


def select(scores: ArrayT, pattern: Pattern) -> ArrayT:
    """The mask of the scores that stay under a pattern: bool, the scores' shape, True = keep.

    scores: float32, float64, float16 or bfloat16; any shape for scope "tensor", (n, k) for all else. +inf
    stays first, -inf goes first, -0.0 equals 0.0. A block's score is the float64 sum of its entries; a block
    cut off by the edge counts as if it were whole. Temporary memory: at most 1/8 of the scores plus some MB.
    CUDA tensors are selected where they are, and the device is asked once, whether a score was NaN; memory
    for a contiguous copy is taken there where rows are not contiguous, and 8 bytes per block.

    Raises TypeError when scores are no array or pattern is no pattern, ValueError for NaN, another dtype, a
    shape the pattern does not fit, or scattered strides, RuntimeError for a CUDA tensor without the CUDA
    kernels.

    >>> select(np.array([[4.0, 1.0, 3.0, 2.0]]), NM(2, 4))
    array([[ True, False,  True, False]])
    """
    if not isinstance(pattern, (Unstructured, NM, Block)):
        raise TypeError(f"pattern: expected Unstructured, NM or Block, got {type(pattern).__name__}")
    if isinstance(pattern, Unstructured) and pattern.scope == "model":
        raise ValueError("pattern: expected scope tensor, row or column, got model (see select_global)")
    if is_cuda(scores):
        return cast("ArrayT", _on_device("scores").select(scores, pattern))
    view = as_array(scores, "scores")
    if isinstance(pattern, Unstructured):
        mask = _core.select_unstructured(view.array, view.dtype, pattern.sparsity, pattern.scope)
    elif isinstance(pattern, NM):
        mask = _core.select_nm(view.array, view.dtype, pattern.n, pattern.m)
    else:
        mask = _core.select_blocks(view.array, view.dtype, pattern.shape, pattern.sparsity)
    return cast("ArrayT", wrap(mask, view, "bool"))


def select_global(scores: Sequence[ArrayT], sparsity: float) -> list[ArrayT]:
    """Masks of many score arrays under one budget: what one concatenated array would give, without it.

    scores: arrays whose shapes, dtypes and kinds may differ; values of different dtypes are compared exactly.
    All on one device: the CPU, or a CUDA device.
    sparsity: share of zeros of all entries together. Ties are pruned from the end of the last array.

    Raises what `select` raises, naming the array: "scores[2]"; TypeError when scores is no list.

    >>> select_global([np.array([1.0, 4.0]), np.array([2.0, 3.0])], 0.5)
    [array([False,  True]), array([False,  True])]
    """
    if not isinstance(scores, (list, tuple)):
        raise TypeError(f"scores: expected a list of arrays, got {type(scores).__name__}")
    if len(scores) > 0 and is_cuda(scores[0]):
        masks = _on_device("scores[0]").select_global(scores, check_sparsity(sparsity))
        return cast("list[ArrayT]", masks)
    views = [as_array(s, f"scores[{i}]") for i, s in enumerate(scores)]
    found = _core.select_global([(v.array, v.dtype) for v in views], check_sparsity(sparsity))
    return [cast("ArrayT", wrap(mask, v, "bool")) for mask, v in zip(found, views, strict=True)]


def apply_mask_(w: ArrayT, mask: Any) -> ArrayT:
    """Write +0.0 into w wherever mask is False, in place; the other entries keep every bit. Returns w.

    w: float32, float64, float16 or bfloat16, writable, not requiring grad. mask: bool, the shape of w, numpy
    or torch, on the device of w. A pruned NaN becomes zero too. On CUDA nothing waits for the device.

    Raises TypeError when one is no array, ValueError for another dtype, shape or device, read-only memory, a
    tensor that requires grad, or scattered strides, RuntimeError for CUDA tensors without the CUDA kernels; w
    is untouched then.

    >>> apply_mask_(np.array([1.0, float("nan"), -3.0]), np.array([True, False, False]))
    array([1., 0., 0.])
    """
    if is_cuda(w):
        _on_device("w").apply_mask_(w, mask)
        return w
    view = as_array(w, "w", writable=True)
    keep = as_array(mask, "mask", dtypes=("bool",))
    same_shape(keep, "mask", view.shape)
    _core.apply_mask(view.array, view.dtype, keep.array)
    return w


def _on_device(argument: str) -> ModuleType:
    """The same on a CUDA device. Raises RuntimeError, naming the argument, where the kernels are missing."""
    open_library(argument)
    from prunus.masks import on_device

    return on_device
