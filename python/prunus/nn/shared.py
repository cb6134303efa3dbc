"""Packed layers that read the same input, as query, key and value do: one pass over it serves all three."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn

from prunus.nn.sparse_linear import SparseLinear
from prunus.ops.torch_ops import linear3_op

__all__ = ["SharedLinear", "SideBySide"]

# After so many passes whose other answers nobody asked for, the layers go alone.
MOST_UNUSED = 3


@dataclass
class _Kept:
    """What one thread has computed and not yet given out: the answers for x, by place in the group."""

    group: _Group
    x: Tensor
    state: tuple[int | None, object]
    answers: dict[int, Tensor]


_thread = threading.local()  # .kept: _Kept | None


class _Group:
    """Three layers; not a module, so that it adds no names."""

    def __init__(self) -> None:
        self.layers: list[SharedLinear] = []
        self.unused = 0

    def answer(self, place: int, x: Tensor) -> Tensor | None:
        """Of one layer; None where it has to compute alone."""
        kept: _Kept | None = getattr(_thread, "kept", None)
        if kept is not None and kept.group is self:
            if kept.x is x and kept.state == _state(x) and place in kept.answers:
                y = kept.answers.pop(place)
                if not kept.answers:
                    _thread.kept = None
                return y
            _thread.kept = None
            self.unused += 1
        plain = all(layer.activation is None and not layer.trainable for layer in self.layers)
        if self.unused >= MOST_UNUSED or not plain:
            return None
        packed, biases, widths = zip(
            *((layer.packed, layer.bias, layer.out_features) for layer in self.layers), strict=True
        )
        if is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *biases)):
            return None
        answers: dict[int, Tensor] = dict(enumerate(linear3_op(x, *packed, *biases, *widths)))
        y = answers.pop(place)
        _thread.kept = _Kept(self, x, _state(x), answers)
        return y


def _state(x: Tensor) -> tuple[int | None, object]:
    """What an answer depends on besides the identity of x: its version, which grows when it is written to
    (inference tensors do not count), and the dtype of autocast."""
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    return None if x.is_inference() else x._version, autocast


class SharedLinear(SparseLinear):
    """A `SparseLinear` that computes its two siblings too, when they read the same input right after it.

    x (..., in_features) -> (..., out_features), as `SparseLinear`; parameters and buffers are those of the
    layer it is made of. The first of the three that is called packs x once, computes all in one parallel
    region and keeps the answers for the other two. A layer goes alone where a gradient is wanted, under
    torch.compile, and after answers were kept in vain three times. `SharedLinear.of` makes the three.

    >>> import prunus, torch
    >>> q, k, v = SharedLinear.of([prunus.SparseLinear.from_linear(torch.nn.Linear(4, 3)) for _ in range(3)])
    >>> with torch.no_grad():
    ...     x = torch.ones(2, 4)
    ...     q(x).shape, k(x).shape, v(x).shape
    (torch.Size([2, 3]), torch.Size([2, 3]), torch.Size([2, 3]))
    """

    group: _Group
    place: int

    @classmethod
    def of(cls, layers: Sequence[SparseLinear]) -> list[SharedLinear]:
        """Three layers of one in_features as three that share; their dictionaries of tensors are shared too.

        Raises ValueError unless there are three, of one in_features.
        """
        widths = [layer.in_features for layer in layers]
        if len(widths) != 3 or len(set(widths)) != 1:
            raise ValueError(f"layers: expected three with one in_features, got {widths}")
        group = _Group()
        for place, layer in enumerate(layers):
            shared = cls.__new__(cls)
            shared.__dict__.update(layer.__dict__)
            shared.group, shared.place = group, place
            group.layers.append(shared)
        return group.layers

    @property
    def leads(self) -> bool:
        """The one by whose name the three are known."""
        return self.place == 0

    def forward(self, x: Tensor) -> Tensor:
        y = None if torch.compiler.is_compiling() else self.group.answer(self.place, x)
        return super().forward(x) if y is None else y


class SideBySide(nn.Module):
    """Layers that read one input, by their names: x (..., k) -> (..., sum of n), answer after answer.

    >>> import torch
    >>> SideBySide({"q": torch.nn.Linear(4, 3), "k": torch.nn.Linear(4, 2)})(torch.ones(2, 4)).shape
    torch.Size([2, 5])
    """

    def __init__(self, layers: dict[str, Any]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self._modules[name] = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.children()], -1)
