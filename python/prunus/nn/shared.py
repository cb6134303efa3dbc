"""Packed layers that read the same input, as query, key and value do: one pass over it serves all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.nn.sparse_linear import SparseLinear
from prunus.ops.registered import autocast_dtype, linear_many_op
from prunus.ops.torch_ops import wants_gradient

__all__ = ["SharedLinear", "SideBySide"]

# After so many passes in a row whose other answers nobody asked for, the layers go alone.
MOST_IN_VAIN = 3
# Inputs whose answers may wait at once (threads of one model, hooks in between): the oldest go.
MOST_WAITING = 8
# Inference tensors have no version: up to so many numbers are copied and compared. With more of them that
# takes as long as a shared pass saves, and the layers go alone.
MOST_COMPARED = 16384


class _Pass:
    """One pass over x: the answers that nobody has asked for yet, by place in the group."""

    __slots__ = ("answers", "biases", "bits", "packed", "state", "versions", "x")

    def __init__(
        self,
        x: Tensor,
        packed: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        answers: Sequence[Tensor],
        gone: Callable[[Any], object],
    ) -> None:
        self.x, self.state = weakref.ref(x, gone), _state(x)
        self.bits = _bytes(x) if x.is_inference() else None
        self.packed, self.biases, self.versions = packed, biases, [_version(bias) for bias in biases]
        self.answers = dict(enumerate(answers))

    def take(self, layer: SharedLinear, x: Tensor) -> Tensor | None:
        """The answer of a layer, once; None where the layer or what is in x is not as it was."""
        place = layer.place
        if self.x() is not x or self.state != _state(x) or layer._buffers["packed"] is not self.packed[place]:
            return None
        bias = layer._parameters.get("bias")
        if bias is not self.biases[place] or _version(bias) != self.versions[place]:
            return None
        if self.bits is not None and self.bits != _bytes(x):
            return None
        return self.answers.pop(place, None)


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
        # On a GPU there is no operator for several layers.
        if not x.is_cpu or wants_gradient(x, layer._parameters.get("bias")):
            return None
        kept = self.waiting.get(id(x))
        if kept is not None and (y := kept.take(layer, x)) is not None:
            if not kept.answers:
                self.waiting.pop(id(x), None)
                self.in_vain = 0
            return y
        if self.in_vain >= MOST_IN_VAIN or (x.is_inference() and not _comparable(x)):
            return None
        return self._compute(layer, x)

    def _compute(self, layer: SharedLinear, x: Tensor) -> Tensor | None:
        """All of them: the answers of the others wait. None where one does more than multiply."""
        layers = self.layers
        # Past nn.Module's own look-up, which takes a microsecond a name.
        packed: list[Any] = [one._buffers["packed"] for one in layers]
        biases = [one._parameters.get("bias") for one in layers]
        if any(one.activation is not None or one.trainable for one in layers) or wants_gradient(*biases):
            return None
        answers = linear_many_op(x, packed, biases, [one.out_features for one in layers])
        waiting, key = self.waiting, id(x)
        while len(waiting) >= MOST_WAITING:
            waiting.pop(next(iter(waiting)), None)
        made = waiting[key] = _Pass(x, packed, biases, answers, lambda _: waiting.pop(key, None))
        self.in_vain += 1
        return made.answers.pop(layer.place)


def _state(x: Tensor) -> tuple[int, torch.dtype | None]:
    """What an answer depends on besides the identity of x: its version, which grows when it is written to,
    and the dtype of autocast."""
    return _version(x), autocast_dtype(x.device.type)


def _version(tensor: Tensor | None) -> int:
    """Inference tensors count nothing."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def _comparable(x: Tensor) -> bool:
    return type(x) is Tensor and x.numel() <= MOST_COMPARED


def _bytes(x: Tensor) -> bytes:
    """What is in x: NaN equals itself, and 0.0 is not -0.0. Three times as fast as `torch.equal`."""
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy().tobytes()


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
