"""softmax(q . k^T * scale + mask) . v in one pass, for inference: in bfloat16 where the CPU multiplies it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import prunus._core as _core
from prunus.ops.registered import DTYPES, attention_op
from prunus.ops.torch_ops import wants_gradient

__all__ = ["attention", "serves_attention"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Scaled dot product attention of query (texts, heads, queries, dim) as (texts, queries, heads, dim).

    key, value: (texts, heads, keys, dim), of as many heads or of a divisor, which groups of heads share; any
    strides. All float32, bfloat16 or float16. mask: bool, True where a query looks at a key, or floats that
    are added to the scores (float32 or the dtype of query); broadcast to (texts, heads, queries, keys).
    scale: a positive number (None: 1 / sqrt(dim)). causal: query i looks at keys 0..i only. A query that may
    look at no key gets zeros. On a CPU that multiplies bfloat16 (isas `avx512bf16` and `amx`) products are
    bfloat16 with float32 sums, elsewhere float32. No gradient, CPU only.

    Raises ValueError (shapes, dtypes, scale) and RuntimeError (a gradient is wanted).

    >>> q, k, v = torch.randn(3, 2, 4, 5, 8)
    >>> expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    >>> torch.allclose(attention(q, k, v), expected, atol=0.05)
    True
    """
    if mask is not None and mask.dim() <= 4 and query.dim() == key.dim() == 4:
        mask = mask[(None,) * (4 - mask.dim())]
        if mask.shape[3] == 1:
            mask = mask.expand(-1, -1, -1, key.shape[2])
    by = 1.0 / math.sqrt(max(query.shape[-1], 1)) if scale is None else float(scale)
    y: Tensor = attention_op(query, key, value, mask, by, causal)
    return y


def serves_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> bool:
    """Whether `attention` takes these, and this machine has more for it than plain loops.

    >>> q = torch.ones(1, 1, 2, 8, requires_grad=True)
    >>> serves_attention(q, q, q)
    False
    """
    same = query.dtype == key.dtype == value.dtype and query.dtype in DTYPES
    shapes = query.dim() == key.dim() == 4 and key.shape == value.shape and query.shape[-1] == key.shape[-1]
    if not (same and shapes and query.is_cpu and key.is_cpu and value.is_cpu):
        return False
    if wants_gradient(query, key, value, mask):
        return False
    if mask is not None and (mask.dtype not in (torch.bool, torch.float32, query.dtype) or mask.dim() > 4):
        return False
    # A compiler cannot look into the extension, and the operator is right without bfloat16 too.
    return torch.compiler.is_compiling() or _core.has_fast_attention()
