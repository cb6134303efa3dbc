"""Packed layers that read the same input, as query, key and value do: one pass over it serves all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.nn.sparse_linear import SparseLinear
from prunus.ops.torch_ops import linear_many_op, wants_gradient

__all__ = ["SharedLinear", "SideBySide"]

# After so many passes in a row whose other answers nobody asked for, the layers go alone.
MOST_IN_VAIN = 3
# Inputs whose answers may wait at once (threads of one model, hooks in between): the oldest go.
MOST_WAITING = 8
# Inference tensors have no version: up to so many numbers are copied and compared. With more of them that
# takes as long as a shared pass saves, and the layers go alone.
MOST_COMPARED = 4096


class _Seen:
    """Tensors as they are now: the objects, and how often each was written to."""

    def __init__(self, *tensors: Tensor | None) -> None:
        self.tensors, self.versions = tensors, [_version(tensor) for tensor in tensors]

    def same(self, *tensors: Tensor | None) -> bool:
        """Whether these are the same tensors, unchanged."""
        objects = all(a is b for a, b in zip(self.tensors, tensors, strict=True))
        return objects and self.versions == [_version(tensor) for tensor in tensors]


class _Pass:
    """One pass over x: the answers that nobody has asked for yet, by place in the group."""

    def __init__(
        self,
        x: Tensor,
        layers: Sequence[SharedLinear],
        answers: Sequence[Tensor],
        gone: Callable[[Any], object],
    ) -> None:
        self.x = weakref.ref(x, gone)
        self.state = _state(x)
        self.bits = _bits(x).clone() if x.is_inference() else None
        seen = [_Seen(layer.packed, layer.bias) for layer in layers]
        self.left = {layer.place: (before, y) for layer, before, y in zip(layers, seen, answers, strict=True)}

    def take(self, layer: SharedLinear, x: Tensor) -> Tensor | None:
        """The answer of a layer, once; None where the layer or what is in x is not as it was."""
        if layer.place not in self.left or self.x() is not x or self.state != _state(x):
            return None
        seen, y = self.left.pop(layer.place)
        same = seen.same(layer.packed, layer.bias) and (self.bits is None or torch.equal(self.bits, _bits(x)))
        return y if same else None


class _Group:
    """Layers that read one input, and the passes whose answers wait; not a module, so that it adds no names.

    An answer belongs to the tensor that it was computed from and goes when that tensor goes, so that neither
    an error between two layers nor an input of another thread leaves anything behind.
    """

    def __init__(self) -> None:
        self.layers: list[SharedLinear] = []
        self.in_vain = 0  # passes in a row that are not used up
        self.waiting: dict[int, _Pass] = {}  # by id of the input

    def __getstate__(self) -> dict[str, Any]:
        """Copies share among themselves; what waits is nobody else's."""
        return {"layers": self.layers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.layers = state["layers"]

    def answer(self, layer: SharedLinear, x: Tensor) -> Tensor | None:
        """Of one layer; None where it has to compute alone."""
        if wants_gradient(x, layer.bias):
            return None
        kept = self.waiting.get(id(x))
        if kept is not None and (y := kept.take(layer, x)) is not None:
            if not kept.left:
                self.waiting.pop(id(x), None)
                self.in_vain = 0
            return y
        if self.in_vain >= MOST_IN_VAIN or not self._may_share(x):
            return None
        return self._compute(layer, x)

    def _may_share(self, x: Tensor) -> bool:
        if x.is_inference() and x.numel() > MOST_COMPARED:
            return False
        plain = all(layer.activation is None and not layer.trainable for layer in self.layers)
        return plain and not wants_gradient(*(layer.bias for layer in self.layers))

    def _compute(self, layer: SharedLinear, x: Tensor) -> Tensor:
        """All of them: the answers of the others wait."""
        packed, biases, widths = zip(
            *((one.packed, one.bias, one.out_features) for one in self.layers), strict=True
        )
        answers = linear_many_op(x, packed, biases, widths)
        while len(self.waiting) >= MOST_WAITING:
            self.waiting.pop(next(iter(self.waiting)), None)
        waiting, key = self.waiting, id(x)
        made = waiting[key] = _Pass(x, self.layers, answers, lambda _: waiting.pop(key, None))
        self.in_vain += 1
        return made.left.pop(layer.place)[1]


def _state(x: Tensor) -> tuple[int, torch.dtype | None]:
    """What an answer depends on besides the identity of x: its version, which grows when it is written to,
    and the dtype of autocast."""
    return _version(x), torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def _version(tensor: Tensor | None) -> int:
    """Inference tensors count nothing."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _bits(x: Tensor) -> Tensor:
    """As integers: NaN equals itself, and 0.0 is not -0.0."""
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])


class SharedLinear(SparseLinear):
    """A `SparseLinear` that computes its siblings too, when they read the same input right after it.

    x (..., in_features) -> (..., out_features), as `SparseLinear`; parameters and buffers are those of the
    layer it is made of. The first of them that is called packs x once, computes all in one parallel region
    and keeps the answers for the others, as long as x is there and unchanged. A layer goes alone where a
    gradient is wanted, under torch.compile, and after answers were kept in vain three times in a row.
    `SharedLinear.of` makes them.

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
        """Layers of one in_features as layers that share; their dictionaries of tensors are shared too.

        Raises ValueError unless there are two or more, of one in_features.
        """
        widths = [layer.in_features for layer in layers]
        if len(widths) < 2 or len(set(widths)) != 1:
            raise ValueError(f"layers: expected two or more with one in_features, got {widths}")
        group = _Group()
        for place, layer in enumerate(layers):
            shared = cls.__new__(cls)
            shared.__dict__.update(layer.__dict__)
            shared.group, shared.place = group, place
            group.layers.append(shared)
        return group.layers

    @property
    def leads(self) -> bool:
        """The one by whose name the group is known."""
        return self.place == 0

    def forward(self, x: Tensor) -> Tensor:
        y = None if torch.compiler.is_compiling() else self.group.answer(self, x)
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
