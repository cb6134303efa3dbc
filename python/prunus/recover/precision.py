"""Whether training is faster in bfloat16 on this machine, and what makes it so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prunus._tools.timing import settling

__all__ = ["attention", "autocast", "faster_in_bfloat16", "plain_attention"]

MARGIN = 1.05  # float32 is the more exact one: bfloat16 has to be worth it
# Scores of one head, texts * length * length, up to which they may stand in memory: 8 MB.
MOST_SCORES = 1 << 22


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager[None]:
    """torch.autocast to bfloat16, or nothing."""
    if not bfloat16:
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16)
    return context


def plain_attention(device: torch.device, shape: Sequence[int]) -> AbstractContextManager[None]:
    """Around a forward pass that is trained in bfloat16, on tokens of that shape (texts, length): attention
    as ordinary products on a CPU, or nothing.

    The gradient of torch's fused attention in bfloat16 takes longer than all else of a block there: the
    backward pass of MiniLM, 16 x 55 tokens, 0.29 s with it and 0.09 without (torch 2.13, two cores with AMX).
    """
    texts, length = (*shape, 1, 1)[:2]
    if device.type != "cpu" or texts * length * length > MOST_SCORES:
        return nullcontext()
    return _PlainAttention()


class _PlainAttention(TorchFunctionMode):
    """`attention` in the place of torch's, which has a version of plain products (`SDPBackend.MATH`) that
    looks for rows without any key in three more passes over the scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            func = attention
        return func(*args, **(kwargs or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` by two products and a softmax, in float32 at
    least. A query that may look at no key looks at all of them alike.

    >>> q, k, v = torch.randn(3, 2, 4, 5, 8)
    >>> torch.allclose(attention(q, k, v), F.scaled_dot_product_attention(q, k, v), atol=1e-5)
    True
    """
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    factor = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    lowest = torch.finfo(scores.dtype).min
    if is_causal:
        rows, columns = scores.shape[-2:]
        later = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, lowest)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, lowest)
    elif attn_mask is not None:
        scores = scores + attn_mask.to(scores.dtype)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, -1, dtype=exact).to(value.dtype)
    return F.dropout(weights, dropout_p) @ value


def faster_in_bfloat16(trial: Callable[[bool], None], device: torch.device) -> bool:
    """Run `trial(bfloat16)`, which works on `device`, both ways in turn, once to warm up and twice for the
    time; the shorter counts.

    >>> faster_in_bfloat16(lambda bfloat16: time.sleep(0.0 if bfloat16 else 0.01), torch.device("cpu"))
    True
    """
    settle = settling(device)
    times = {False: float("inf"), True: float("inf")}
    for turn in range(3):
        for way in times:
            settle()
            start = time.perf_counter()
            trial(way)
            settle()
            if turn:
                times[way] = min(times[way], time.perf_counter() - start)
    return times[True] * MARGIN < times[False]
