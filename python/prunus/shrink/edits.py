"""A change of a model as a list of assignments: all of them or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.interrupts import OneInterrupt
from prunus.families import is_conv1d, weight_matrix

__all__ = ["Edits"]

_MISSING = object()


class Edits:
    """Attribute assignments, prepared first (which may fail) and applied together.

    Nothing of the model changes before `apply`; should an assignment fail, those before it are taken back. A
    Ctrl-C waits for the last of them.
    """

    def __init__(self) -> None:
        self._changes: list[tuple[Any, str, Any]] = []
        # What a later edit of the same module must start from.
        self._pending: dict[tuple[int, str], Any] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Plan `owner.name = value`."""
        self._changes.append((owner, name, value))
        self._pending[id(owner), name] = value

    def get(self, owner: Any, name: str) -> Any:
        """The value of `owner.name` after the edits so far."""
        return self._pending.get((id(owner), name), getattr(owner, name))

    def keep_rows(self, module: nn.Module, rows: Tensor) -> None:
        """Keep these output rows of a Linear or Conv1D, weight and bias."""
        weight = weight_matrix(module)
        self._weight(module, weight.index_select(0, rows.to(weight.device)))
        bias = self.get(module, "bias")
        if bias is not None:
            self._parameter(module, "bias", bias.detach().index_select(0, rows.to(bias.device)))
        self._count(module, "nf" if is_conv1d(module) else "out_features", rows.numel())

    def keep_columns(self, module: nn.Module, columns: Tensor, values: Tensor | None = None) -> None:
        """Keep these input columns of a Linear or Conv1D, with these values (n, columns) if given."""
        weight = weight_matrix(module)
        self._weight(
            module, weight.index_select(1, columns.to(weight.device)) if values is None else values.to(weight)
        )
        self._count(module, "nx" if is_conv1d(module) else "in_features", columns.numel())

    def keep_dimensions(self, module: nn.Module, columns: Tensor) -> None:
        """Keep these columns of an Embedding."""
        weight: Tensor = module.weight.detach()  # type: ignore[operator]
        self._parameter(module, "weight", weight.index_select(1, columns.to(weight.device)))
        self.set(module, "embedding_dim", columns.numel())

    def add_to_bias(self, module: nn.Module, delta: Tensor) -> None:
        """Add an fp64 vector to the bias; a module without one gets it, in the dtype of its weight."""
        bias = self.get(module, "bias")
        weight = module.weight
        base = torch.zeros_like(delta) if bias is None else bias.detach().to(delta)
        value = (base + delta).to(dtype=weight.dtype, device=weight.device)  # type: ignore[arg-type]
        self._parameter(module, "bias", value)

    def apply(self) -> Callable[[], None]:
        """Make all assignments and return what takes them back; on an error they are taken back already."""
        done: list[tuple[Any, str, Any]] = []

        def undo() -> None:
            for owner, name, value in reversed(done):
                if value is not _MISSING:
                    setattr(owner, name, value)
                elif hasattr(owner, name):
                    delattr(owner, name)
            done.clear()

        with OneInterrupt() as interrupt:
            interrupt.hold()
            try:
                for owner, name, value in self._changes:
                    done.append((owner, name, getattr(owner, name, _MISSING)))
                    setattr(owner, name, value)
            except BaseException:
                undo()
                raise
        return undo

    def _count(self, module: nn.Module, name: str, value: int) -> None:
        if hasattr(module, name):  # older Conv1D has no nx
            self.set(module, name, value)

    def _weight(self, module: nn.Module, matrix: Tensor) -> None:
        self._parameter(module, "weight", matrix.t() if is_conv1d(module) else matrix)

    def _parameter(self, module: nn.Module, name: str, value: Tensor) -> None:
        old = getattr(module, name)
        requires_grad = old.requires_grad if old is not None else module.weight.requires_grad
        self.set(module, name, nn.Parameter(value.contiguous(), requires_grad=bool(requires_grad)))
