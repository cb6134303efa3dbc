"""Whether training is faster in bfloat16 on this machine, and what makes it so."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunus._tools.timing import settling

__all__ = ["autocast", "faster_in_bfloat16", "plain_attention"]

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
    context: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


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
