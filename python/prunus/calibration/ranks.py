"""Several processes (`torch.distributed`), each with samples of its own: all prune by the statistics of all.

Every process calls these in the same order. With one process, or none initialised, they change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from prunus.calibration.stats import Stats

__all__ = ["merge_stats", "merged_order", "several", "summed"]


def several() -> bool:
    """Whether there is more than one process.

    >>> several()
    False
    """
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, the same bits in each of them.

    >>> summed(torch.ones(2))
    tensor([1., 1.])
    """
    if not several():
        return tensor
    # nccl knows only its own device.
    device = torch.device("cuda") if dist.get_backend() == "nccl" else tensor.device
    total = tensor.detach().to(device, copy=True).contiguous()
    dist.all_reduce(total)
    dist.broadcast(total, 0)  # whichever order each of them added in
    return total.to(tensor.device)


def merge_stats(stats: Mapping[str, Stats], needs: Iterable[str], weights: Mapping[str, Tensor]) -> None:
    """Add up, in place, what all processes measured at each layer; weights: theirs, for the shapes (n, k)."""
    if not several():
        return
    for name, found in stats.items():
        n, k = weights[name].shape
        # Of a layer that saw nothing in this process.
        missing: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "sumsq": ((k,), torch.float64),
            "gram": ((k, k), torch.float32),
            "grad_sum": ((n, k), torch.float32),
            "grad_sq": ((n, k), torch.float32),
        }
        found.tokens = int(summed(torch.tensor(found.tokens, device="cpu")))
        for key in sorted(needs):
            mine = getattr(found, key)
            shape, dtype = missing[key]
            if mine is None:
                mine = torch.zeros(shape, dtype=dtype, device=weights[name].device)
            setattr(found, key, summed(mine))


def merged_order(order: Mapping[str, str]) -> dict[str, str]:
    """The entries of all processes, those of the first process first."""
    if not several():
        return dict(order)
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, dict(order))
    found: dict[str, str] = {}
    for one in every:
        found |= {name: place for name, place in one.items() if name not in found}
    return found
