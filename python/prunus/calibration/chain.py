"""Feeding transformer blocks one after another, each from the stored outputs of the one before."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Chain"]


class _AtFirstBlockError(Exception):
    """Nothing went wrong: the first block was reached and the rest of the model is not needed."""


Call = tuple[tuple[Any, ...], dict[str, Any]]


class Chain:
    """The blocks of a model and, per batch, what they were called with.

    Only the hidden states of one block are kept; the other arguments (masks, positions) are references to
    what the model made for all blocks. `intact` says whether the model does nothing else between two blocks:
    every block ran once per batch, in order, on exactly the output of the one before.

    Where the first batch shows that, and that all blocks get the same other arguments, the model runs no
    further than its first block for the other batches: their hidden states are made block by block anyway.
    """

    def __init__(self, blocks: Mapping[str, nn.Module]) -> None:
        self.blocks = dict(blocks)
        self.intact = True
        self.started = False  # whether a block has been called in this pass
        self._modules = list(blocks.values())
        self._only_start = False
        self._hidden: list[Tensor] = []
        self._calls: list[list[Call]] = []
        self._last: Tensor | None = None

    @property
    def uniform(self) -> bool:
        """Whether a whole batch was recorded and its blocks differ in nothing but the hidden states."""
        if not (self.intact and self._calls and len(self._calls[0]) == len(self._modules) > 0):
            return False
        first = _flat(self._calls[0][0])
        flats = [_flat(call) for call in self._calls[0]]
        return all(len(f) == len(first) and all(map(operator.is_, f, first)) for f in flats)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forget what was recorded; run every batch inside with `next_batch`."""
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

    def next_batch(self, run: Callable[[], object], only_start: bool = False) -> None:
        """Run the model on another batch; `only_start` (when `uniform`) leaves it at the first block."""
        self._calls.append([])
        self._only_start = only_start
        self._last, self.started = None, False
        try:
            run()
        except _AtFirstBlockError:
            self._calls[-1] *= len(self._modules)

    def run(self, index: int, batch: int) -> Any:
        """The hidden states that block `index` makes of a batch."""
        hidden, (args, kwargs) = self._hidden[batch], self._calls[batch][index]
        if "hidden_states" in kwargs:
            return _first(self._modules[index](*args, **{**kwargs, "hidden_states": hidden}))
        return _first(self._modules[index](hidden, *args, **kwargs))

    def advance(self, index: int) -> None:
        """Replace the stored hidden states by the outputs of block `index` as it is now."""
        for batch in range(len(self._hidden)):
            self._hidden[batch] = self.run(index, batch)

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
            elif self._last is None or not _same(self._last, hidden):
                self.intact = False
            calls.append((args[1:], {**kwargs, "hidden_states": None} if not args else kwargs))
            if self._only_start:
                raise _AtFirstBlockError

        return hook

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._last = _first(output)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether nothing happened to it in between, a move to another device included."""
    return a.device == b.device and torch.equal(a, b)


def _flat(call: Call) -> list[Any]:
    args, kwargs = call
    return [*args, *kwargs, *kwargs.values()]


def _first(output: Any) -> Any:
    """The hidden states in a block's output: itself, or the first of a tuple."""
    return output[0] if isinstance(output, (tuple, list)) else output
