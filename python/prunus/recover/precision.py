"""Whether training is faster in bfloat16 on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from prunus._tools.timing import settling

__all__ = ["autocast", "faster_in_bfloat16"]

MARGIN = 1.05  # float32 is the more exact one: bfloat16 has to be worth it


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager[None]:
    """torch.autocast to bfloat16, or nothing."""
    if not bfloat16:
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16)
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
