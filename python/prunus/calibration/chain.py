"""Feeding transformer blocks one after another, each from the stored outputs of the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Chain"]

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Chain:
    """The blocks of a model and, per batch, what they were called with.

    Only the hidden states of one block are kept; the other arguments (masks, positions) are references to
    what the model made for all blocks. `intact` says whether the model does nothing else between two blocks:
    every block ran once per batch, in order, on exactly the output of the one before.
    """

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        self.blocks = dict(blocks)
        self.intact = True
        self.started = False  # whether a block has been called in this pass
        self._modules = list(blocks.values())
        self._hidden: list[Tensor] = []
        self._calls: list[list[Call]] = []
        self._last: Tensor | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forget what was recorded; call `next_batch` before every batch run inside."""
        self._hidden, self._calls = [], []
        handles: list[RemovableHandle] = []
        try:
            for index, block in enumerate(self._modules):
                handles.append(block.register_forward_pre_hook(self._before(index), with_kwargs=True))
                handles.append(block.register_forward_hook(self._after))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._last = None
        complete = all(len(calls) == len(self._modules) for calls in self._calls)
        self.intact = self.intact and complete and len(self._hidden) == len(self._calls)

    def next_batch(self) -> None:
        """The next calls belong to another batch."""
        self._calls.append([])
        self._last, self.started = None, False

    def run(self, index: int) -> Iterator[Tensor]:
        """Run block `index` on every batch; yields its outputs one by one."""
        for hidden, calls in zip(self._hidden, self._calls, strict=True):
            args, kwargs = calls[index]
            if "hidden_states" in kwargs:
                yield _first(self._modules[index](*args, **{**kwargs, "hidden_states": hidden}))
            else:
                yield _first(self._modules[index](hidden, *args, **kwargs))

    def advance(self, index: int) -> None:
        """Replace the stored hidden states by the outputs of block `index` as it is now."""
        for batch, output in enumerate(self.run(index)):
            self._hidden[batch] = output

    def _before(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.started = True
            calls = self._calls[-1]
            hidden = args[0] if args else kwargs.get("hidden_states")
            if index != len(calls) or not isinstance(hidden, Tensor):
                self.intact = False
                return
            if index == 0:
                self._hidden.append(hidden)
            elif self._last is None or not torch.equal(self._last, hidden):
                self.intact = False
            calls.append((args[1:], kwargs))

        return hook

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._last = _first(output)


def _first(output: Any) -> Any:
    """The hidden states in a block's output: itself, or the first of a tuple."""
    return output[0] if isinstance(output, (tuple, list)) else output
