"""What a model was before a load, so that one that fails leaves no trace."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["Before"]


class Before:
    """Notes what a model holds, changes values for the caller, and puts everything back on demand.

    Modules, parameters and buffers are noted as references. Values that are overwritten in place are copied
    first: a load holds one copy of the model's dense tensors more until it is done.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._values: list[tuple[Tensor, Tensor]] = []
        self._data: list[tuple[Tensor, Tensor]] = []
        self._attributes: list[tuple[nn.Module, str, Any]] = []
        self.note(model)

    def note(self, model: nn.Module) -> None:
        """Which children, parameters and buffers every module has now."""
        self._tables = [
            (table, dict(table))
            for module in model.modules()
            for table in (module._modules, module._parameters, module._buffers)
        ]

    def copy(self, tensor: Tensor, value: Tensor) -> None:
        """Overwrite the values of a tensor."""
        self._values.append((tensor.data, tensor.data.clone()))
        tensor.data.copy_(value)

    def replace(self, tensor: Tensor, data: Tensor) -> None:
        """Give a tensor other memory: another dtype, shape or layout."""
        self._data.append((tensor, tensor.data))
        tensor.data = data

    def attribute(self, module: nn.Module, name: str) -> None:
        """An attribute is about to be set."""
        self._attributes.append((module, name, getattr(module, name)))

    def restore(self) -> None:
        """As it was at the last `note`."""
        for module, name, value in reversed(self._attributes):
            setattr(module, name, value)
        for tensor, data in reversed(self._data):
            tensor.data = data
        for memory, values in reversed(self._values):
            memory.copy_(values)
        for table, content in self._tables:
            table.clear()
            table.update(content)
