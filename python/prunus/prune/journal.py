"""All or nothing: what a run changed is put back when it fails."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from prunus._tools.interrupts import OneInterrupt
from prunus.masks import apply_mask_

__all__ = ["Journal"]


class Journal:
    """Collects changes to weights; `commit` keeps them, leaving the `with` block without it undoes them.

    Two ways in, by what the run can afford. `stage` keeps a mask as bits (1/32 of a float32 weight) and
    touches nothing before `commit`: enough where no sample is run through the half-pruned model. `write`
    changes the weight now and keeps one copy of its old values.
    """

    def __init__(self) -> None:
        self._staged: list[tuple[Tensor, Tensor]] = []
        self._undo: list[Callable[[], object]] = []
        self._old: dict[int, Tensor] = {}
        self._interrupt = OneInterrupt()

    def __enter__(self) -> Journal:
        self._interrupt.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interrupt.hold()
        try:
            while self._undo:
                self._undo.pop()()
        finally:
            self._interrupt.__exit__(kind, error, trace)

    def on_undo(self, undo: Callable[[], object]) -> None:
        """Something else to put back; the last thing done is undone first."""
        self._undo.append(undo)

    def stage(self, weight: Tensor, mask: Tensor) -> None:
        """Remember to set `weight` (n, k) to zero where `mask` is False."""
        self._staged.append((weight, _bits(mask)))

    def write(self, weight: Tensor, mask: Tensor, new: Tensor | None) -> None:
        """Set `weight` (n, k) now: to `new` if given, then to zero where `mask` is False."""
        if weight.data_ptr() not in self._old:
            old = self._old[weight.data_ptr()] = weight.clone()
            self._undo.append(lambda: weight.copy_(old))
        if new is not None:
            weight.copy_(new)
        _apply(weight, mask)

    def old(self, weight: Tensor) -> Tensor:
        """The values `weight` had before the run."""
        return self._old.get(weight.data_ptr(), weight)

    def commit(self, then: Callable[[], object] | None = None) -> None:
        """Apply what was staged and keep everything, unless `then`, called in between, fails."""
        if then is not None:
            for weight, bits in self._staged:
                self.write(weight, _mask(weight, bits), None)
            then()
            self._undo.clear()
            return
        self._interrupt.hold()  # half of the masks are no answer: a Ctrl-C waits for the rest
        self._apply_staged()
        self._undo.clear()

    def _apply_staged(self) -> None:
        for weight, bits in self._staged:
            _apply(weight, _mask(weight, bits))


def _bits(mask: Tensor) -> Tensor:
    """A mask as uint8 with eight entries each, where it is."""
    if mask.is_cpu:
        return torch.from_numpy(np.packbits(mask.numpy(), axis=None))
    flat = mask.reshape(-1)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=mask.device)
    return (flat.to(torch.uint8) << places).sum(1, dtype=torch.uint8)


def _mask(weight: Tensor, bits: Tensor) -> Tensor:
    if not bits.is_cpu:
        places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
        return ((bits[:, None] >> places) & 1).view(-1)[: weight.numel()].bool().reshape(weight.shape)
    flat = np.unpackbits(bits.numpy(), count=weight.numel()).view(np.bool_)
    return torch.from_numpy(flat).reshape(weight.shape)


def _apply(weight: Tensor, mask: Tensor) -> None:
    if weight.device.type == "cpu" and 1 in weight.stride():
        apply_mask_(weight, mask)
    else:
        weight.masked_fill_(~mask.to(weight.device), 0)
