"""Which block of the teacher each block of the pruned model stands for, and their hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.families import blocks

__all__ = ["Pair", "Taps", "pair_blocks"]


@dataclass(frozen=True)
class Pair:
    """student: name of a block. teacher: name of the teacher's block it was made from. target: the teacher's
    block whose output it should give: the last before the one that the next block was made from."""

    student: str
    teacher: str
    target: str


def pair_blocks(model: nn.Module, teacher: nn.Module) -> list[Pair]:
    """The pairs in the order they run; [] where the models have no blocks.

    Where the teacher has more blocks, those that are missing were dropped: every block is matched with the
    one whose vectors (norms, biases: nothing prunes those) are closest, in the same order.

    Raises ValueError when the model has more blocks than the teacher, or only one of them has any.
    """
    mine, theirs = list(blocks(model).items()), list(blocks(teacher).items())
    if len(mine) > len(theirs) or (theirs and not mine):
        raise ValueError(f"teacher: expected at least {len(mine)} blocks like the model's, got {len(theirs)}")
    if not mine:
        return []
    if len(mine) == len(theirs):
        chosen = list(range(len(mine)))
    else:
        chosen = _closest([[_distance(a, b) for _, b in theirs] for _, a in mine])
    ends = [*(index - 1 for index in chosen[1:]), len(theirs) - 1]
    return [
        Pair(name, theirs[index][0], theirs[end][0])
        for (name, _), index, end in zip(mine, chosen, ends, strict=True)
    ]


def _distance(a: nn.Module, b: nn.Module) -> float:
    """Relative distance of the vectors that both blocks have, 2 for what cannot be compared."""
    there = dict(b.named_parameters())
    found = []
    for name, vector in a.named_parameters():
        other = there.get(name)
        if vector.dim() == 1 and other is not None and other.shape == vector.shape:
            size = float(vector.detach().norm() + other.detach().norm())
            found.append(float((vector.detach() - other.detach()).norm()) / size if size else 0.0)
    return sum(found) / len(found) if found else 2.0


def _closest(distances: Sequence[Sequence[float]]) -> list[int]:
    """One ascending column per row with the smallest sum; among equals the later columns."""
    count, width = len(distances), len(distances[0])
    best = [[0.0] * (width + 1)] + [[float("inf")] * (width + 1) for _ in range(count)]
    for i in range(1, count + 1):
        for j in range(i, width + 1):
            best[i][j] = min(best[i][j - 1], best[i - 1][j - 1] + distances[i - 1][j - 1])
    chosen, j = [], width
    for i in range(count, 0, -1):
        while j > i and best[i][j - 1] < best[i - 1][j - 1] + distances[i - 1][j - 1]:
            j -= 1
        chosen.append(j - 1)
        j -= 1
    return chosen[::-1]


class Taps:
    """The outputs of some modules of a model, taken while it runs."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._modules = [model.get_submodule(name) for name in names]
        self._found: list[Tensor | None] = []
        self._open = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While active, `run` works."""
        handles = [m.register_forward_hook(self._hook(i)) for i, m in enumerate(self._modules)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, call: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
        """What `call` returns, and the hidden states, one per module. ValueError when one did not run."""
        self._found, self._open = [None] * len(self._modules), True
        try:
            output = call()
        finally:
            self._open = False  # checkpointing runs blocks again in the backward pass
        found = [state for state in self._found if state is not None]
        if len(found) < len(self._modules):
            raise ValueError(
                "model: expected every block to run and to return a tensor, got one that did not"
            )
        self._found = []
        return output, found

    def _hook(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            state = output[0] if isinstance(output, (tuple, list)) else output
            if self._open and isinstance(state, torch.Tensor):
                self._found[index] = state

        return hook
