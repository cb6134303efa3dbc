"""`SparseLinear.weight`: a dense weight that is unpacked where somebody asks for its values."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import prunus._core as _core
from prunus.ops.unpack import unpack_op
from prunus.packed import PackedWeight

__all__ = ["UnpackedWeight", "note_read", "weight_of", "weight_reads"]

# What is known without the values.
_FACTS: frozenset[Any] = frozenset(
    {
        getattr(Tensor, name).__get__
        for name in (
            "device", "dtype", "grad", "grad_fn", "is_cpu", "is_cuda", "is_leaf", "is_meta", "is_nested",
            "is_quantized", "is_sparse", "itemsize", "layout", "nbytes", "ndim", "requires_grad", "shape",
        )
    }
    | {
        Tensor.__hash__, Tensor.__len__, Tensor.dim, Tensor.element_size, Tensor.get_device,
        Tensor.is_complex, Tensor.is_contiguous, Tensor.is_floating_point, Tensor.ndimension,
        Tensor.nelement, Tensor.numel, Tensor.size, Tensor.stride, torch.is_floating_point, torch.numel,
    }
)  # fmt: skip
# It is no part of a graph: the same weight comes out.
_ITSELF: frozenset[Any] = frozenset({Tensor.data.__get__, Tensor.detach, torch.detach})  # type: ignore[attr-defined]
_FREEZES: frozenset[Any] = frozenset({Tensor.requires_grad.__set__, Tensor.requires_grad_})  # type: ignore[attr-defined]
_WRITES = frozenset({"__set__", "__delete__", "__setitem__"}) | {
    f"__i{word}__"
    for word in ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
}

# Layer -> the UnpackedWeight that somebody still holds.
_held: weakref.WeakKeyDictionary[Any, weakref.ref[UnpackedWeight]] = weakref.WeakKeyDictionary()
# Of every `weight_reads` that is active.
_readings: list[dict[int, bool]] = []


class PackedLayer(Protocol):
    """What of a `SparseLinear` is needed here, which it says."""

    in_features: int
    out_features: int
    packed: Tensor
    weight_dtype: torch.dtype
    conv1d: bool
    copy_of: nn.Parameter | None

    @property
    def packed_weight(self) -> PackedWeight:
        """Its packed weight."""

    def current(self) -> Tensor:
        """The packed bytes, with the values as they are now where these are trained."""


class UnpackedWeight(Tensor):
    """The weight of a packed layer as a tensor that has no memory before its values are read.

    Shape (n, k), or (k, n) where the layer stands for a Conv1D; dtype, device and the like cost nothing.
    Everything else sees an ordinary dense tensor, a copy; writing is refused, since the layer would not
    notice.
    """

    layer: PackedLayer
    _dense: tuple[int, Tensor] | None

    @staticmethod
    def __new__(cls, layer: PackedLayer) -> UnpackedWeight:
        shape = (layer.out_features, layer.in_features)
        made: UnpackedWeight = Tensor._make_wrapper_subclass(
            cls,
            shape[::-1] if layer.conv1d else shape,
            dtype=layer.weight_dtype,
            device=layer.packed.device,
        )
        made.layer, made._dense = layer, None
        return made

    def dense(self) -> Tensor:
        """The values, unpacked at the first call and after the packed bytes have changed."""
        note_read(self.layer, True)
        packed = self.layer.packed_weight
        now = _core.fingerprint(packed.buffer)
        if self._dense is None or self._dense[0] != now:
            weight = torch.from_numpy(packed.to_dense())
            weight = weight.t().contiguous() if self.layer.conv1d else weight
            with torch._C.DisableTorchFunctionSubclass():
                weight = weight.to(self.device, self.dtype)
            self._dense = now, weight
        return self._dense[1]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        mine = isinstance(target, cls)
        if mine and func in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if mine and func in _ITSELF:
            return target
        if mine and func in _FREEZES and args[1:] == (False,):
            return target
        name = getattr(func, "__name__", "")
        writes = name in _WRITES or (name.endswith("_") and not name.endswith("__"))
        if (mine and writes) or isinstance(kwargs.get("out"), cls):
            raise _read_only(name)
        return func(*_dense(args), **_dense(kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """For what does not ask for `__torch_function__`."""
        if func._schema.is_mutable and args and isinstance(args[0], cls):
            raise _read_only(str(func))
        return func(*_dense(args), **_dense(kwargs or {}))


def weight_of(layer: PackedLayer) -> Tensor:
    """The dense weight of a packed layer; of the copy of an embedding's, that one."""
    if layer.copy_of is not None:
        return layer.copy_of
    if torch.compiler.is_compiling():
        dense: Tensor = unpack_op(layer.current(), layer.out_features, layer.in_features).to(
            layer.weight_dtype
        )
        return dense.t() if layer.conv1d else dense
    note_read(layer, False)
    known = _held.get(layer)
    weight = known() if known is not None else None
    if weight is None or weight.dtype != layer.weight_dtype or weight.device != layer.packed.device:
        weight = UnpackedWeight(layer)
        _held[layer] = weakref.ref(weight)
    return weight


@contextmanager
def weight_reads() -> Iterator[dict[int, bool]]:
    """While active, id of a layer whose `weight` is read -> whether its values are, which unpacks it.

    >>> import prunus
    >>> layer = prunus.SparseLinear(4, 3)
    >>> with weight_reads() as reads:
    ...     _ = layer.weight.dtype
    >>> reads == {id(layer): False}
    True
    """
    reads: dict[int, bool] = {}
    _readings.append(reads)
    try:
        yield reads
    finally:
        _readings[:] = [other for other in _readings if other is not reads]


def note_read(layer: object, values: bool) -> None:
    """Tell every `weight_reads` that a layer's weight is read; values: not only its shape and dtype."""
    for reads in _readings:
        reads[id(layer)] = values or reads.get(id(layer), False)


def _dense(values: Any) -> Any:
    return tree_map_only(UnpackedWeight, lambda weight: weight.dense(), values)


def _read_only(name: str) -> RuntimeError:
    return RuntimeError(
        f"weight: expected to be read only, got {name}: a packed weight is frozen. to_linear() of the layer "
        "and prunus.to_dense_(model) give weights that can be written"
    )
