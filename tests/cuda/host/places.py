"""Where the pruning backend is tested: the kernels' model on the host, and a GPU; and what it is given."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
KINDS = ["normal", "ties", "edges", "constant"]


@dataclass(frozen=True)
class Place:
    """Where the tensors are, and the functions that take them there."""

    device: str
    functions: Any

    def to(self, tensor: Tensor) -> Tensor:
        """The tensor there, with its strides."""
        if self.device == "cpu":
            return tensor
        once = tensor  # a dimension that repeats itself is repeated there
        for dim, stride in enumerate(tensor.stride()):
            once = once.narrow(dim, 0, 1) if stride == 0 and tensor.shape[dim] > 1 else once
        there = torch.empty_strided(once.shape, once.stride(), dtype=tensor.dtype, device=self.device)
        return there.copy_(once).expand(tensor.shape)

    def select(self, scores: Tensor, pattern: Any) -> Tensor:
        mask: Tensor = self.functions.select(self.to(scores), pattern)
        assert mask.device.type == self.device
        return mask.cpu()


def make(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "normal":
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if kind == "ties":
        return torch.randint(-3, 4, shape, generator=generator).to(dtype)
    if kind == "constant":
        return torch.full(shape, 0.25, dtype=dtype)
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    edges = [0.0, -0.0, torch.inf, -torch.inf, smallest, -smallest, 1.0, torch.finfo(dtype).max]
    values = torch.tensor(edges, dtype=torch.float64).to(dtype)
    assert values[4] > 0  # a subnormal
    return values[torch.randint(len(edges), shape, generator=generator)]


def outcome(call: Any, *arguments: Any) -> tuple[str, str]:
    """The error, as kind and sentence."""
    try:
        call(*arguments)
    except (ValueError, TypeError) as error:
        return type(error).__name__, str(error)
    return "", ""


def bits(tensor: Tensor) -> Tensor:
    """As integers, every NaN the same."""
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
    return torch.where(tensor.isnan(), torch.nan, tensor).view(word)
