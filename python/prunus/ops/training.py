"""Training on the packed weight: its values are a parameter, and get a gradient only where they are kept.

Values are in row-major order of w (n, k). Packed bytes are a copy of them that the kernels read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd.function import once_differentiable

import prunus._core as _core
from prunus.ops.autograd import FUNCTIONS, under_autocast
from prunus.ops.registered import DTYPES, dtype_name, linear_op, refuse_transform
from prunus.ops.torch_ops import buffer_tensor
from prunus.packed import PackedWeight, array_view, pack, tensor_view

if TYPE_CHECKING:
    from prunus.packed import DtypeLike

__all__ = [
    "LEAST_VALUE",
    "ValueIndex",
    "linear_of_values",
    "pack_with_values",
    "value_index",
    "values_of",
    "with_values",
]

#: What the packed bytes hold for a kept weight that is zero, so that the mask can be read back from them.
LEAST_VALUE = torch.finfo(torch.float32).smallest_normal

_library: Any = torch.library.Library("prunus", "FRAGMENT")  # type: ignore[no-untyped-call]


def _with_values_fake(packed: Tensor, values: Tensor, places: Tensor) -> Tensor:
    if is_grad_enabled() and values.requires_grad:
        raise RuntimeError(_core.gradient_sentence("values"))
    if values.dtype not in DTYPES:
        raise ValueError(f"values: expected float32, bfloat16 or float16, got {dtype_name(values)}")
    return packed.new_empty(packed.shape)


def _values_gradient_fake(grad: Tensor, x: Tensor, first: Tensor, columns: Tensor) -> Tensor:
    if grad.dtype not in DTYPES:
        raise ValueError(f"grad: expected float32, bfloat16 or float16, got {dtype_name(grad)}")
    if x.dtype != grad.dtype:
        raise ValueError(f"x: expected {dtype_name(grad)} as grad, got {dtype_name(x)}")
    return columns.new_empty(columns.shape, dtype=torch.float32)


for _name, _fake in (("with_values", _with_values_fake), ("values_gradient", _values_gradient_fake)):
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"prunus::{_name}", _fake, lib=_library)
    _library.impl(_name, refuse_transform, "FuncTorchDynamicLayerFrontMode")
_with_values_op: Any = torch.ops.prunus.with_values.default
_values_gradient_op: Any = torch.ops.prunus.values_gradient.default


class ValueIndex(NamedTuple):
    """Where the kept weights of a packed weight are. Never changed, so copies of a layer share it."""

    #: int32 (n * tiles + 1): entries of row i and of the 128 columns of tile t begin at first[i * tiles + t].
    first: Tensor
    #: uint8 (nnz): the column of each entry in its tile.
    columns: Tensor
    #: int32 (nnz): where in the packed bytes each value is.
    places: Tensor
    #: The packed transposed weight, for the gradient of x; its values are those of some time before.
    turned: Tensor
    #: int32 (nnz): where in `turned` each value is.
    turned_places: Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> ValueIndex:
        return self


def value_index(packed: Tensor) -> ValueIndex:
    """Of the bytes of a packed weight (1-D uint8, CPU) of float32 values, format dot excepted.

    Raises FormatError for damaged bytes, and ValueError for other values and for more than 2 GB of them.

    >>> import prunus
    >>> index = value_index(buffer_tensor(prunus.pack(torch.tensor([[0.0, 2.0], [1.0, 3.0]]))))
    >>> index.columns.tolist(), index.first.tolist()
    ([1, 0, 1], [0, 1, 3])
    """
    weight = PackedWeight.from_buffer(array_view(packed))
    if weight.dtype != "float32" or weight.format == "dot":
        got = f"{weight.dtype} in format {weight.format}"
        raise ValueError(f"packed: expected float32 values to train on, got {got}")
    first, columns = _core.kept_columns(weight.buffer)
    turned = pack(weight.to_dense().T)
    return ValueIndex(
        torch.from_numpy(first),
        tensor_view(columns),
        torch.from_numpy(_core.value_places(weight.buffer)),
        buffer_tensor(turned),
        torch.from_numpy(_core.value_places(turned.buffer, by_column=True)),
    )


def pack_with_values(
    w: Tensor, mask: Tensor | None = None, dtype: DtypeLike | None = None, format: str = "auto"
) -> tuple[PackedWeight, Tensor]:
    """A weight (n, k) packed so that every kept one has a place, also one that is zero now; and their values.

    mask, dtype (float32 is the only one), format and what is raised: as for `prunus.pack`. The values (nnz,)
    are of the weight's dtype, float32 where that is none that kernels read.

    >>> packed, values = pack_with_values(torch.tensor([[0.0, 2.0]]), torch.tensor([[True, False]]))
    >>> packed.nnz, values
    (1, tensor([0.]))
    """
    w = w.detach()
    if mask is not None and (mask.shape != w.shape or mask.dtype != torch.bool):
        pack(w, mask)  # which says so
    kept = w != 0 if mask is None else mask
    stored = w.float()
    stored = torch.where(kept & (stored.abs() < LEAST_VALUE), LEAST_VALUE, stored)
    packed = pack(stored, kept, dtype or torch.float32, format)
    return packed, w[kept].to(w.dtype if w.dtype in DTYPES else torch.float32)


def values_of(packed: PackedWeight) -> Tensor:
    """The stored values (nnz,) as float32, in row-major order of w.

    >>> import prunus
    >>> values_of(prunus.pack(torch.tensor([[0.0, 2.0], [1.0, 3.0]])))
    tensor([2., 1., 3.])
    """
    dense = packed.to_dense()
    return torch.from_numpy(dense[dense != 0])


def with_values(packed: Tensor, values: Tensor, places: Tensor) -> Tensor:
    """A copy of the packed bytes with other values (nnz,), float32, bfloat16 or float16, in their places.

    The pattern is not looked at: a value costs two reads and a write. Zeros and subnormals become the least
    normal number. Raises ValueError (shapes, dtypes, places outside of the bytes).

    >>> import prunus
    >>> packed = buffer_tensor(prunus.pack(torch.tensor([[0.0, 2.0], [1.0, 3.0]])))
    >>> new = with_values(packed, torch.tensor([5.0, 6.0, 7.0]), value_index(packed).places)
    >>> prunus.PackedWeight.from_buffer(new.numpy()).to_dense().tolist()
    [[0.0, 5.0], [6.0, 7.0]]
    """
    new: Tensor = _with_values_op(packed, values, places)
    return new


def linear_of_values(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    packed: Tensor,
    index: ValueIndex,
    out_features: int,
    activation: int,
) -> Tensor:
    """`prunus.linear` that autograd can follow to x, bias and the values; packed holds these values.

    Sums are float32; under `torch.autocast` x and y are of its dtype, the values stay as they are.

    >>> import prunus
    >>> packed = buffer_tensor(prunus.pack(torch.tensor([[0.0, 2.0]])))
    >>> values = torch.tensor([2.0], requires_grad=True)
    >>> x, index = torch.tensor([[3.0, 4.0]]), value_index(packed)
    >>> linear_of_values(x, values, None, packed, index, 1, 0).backward()
    >>> values.grad
    tensor([4.])
    """
    x, bias = under_autocast(x, bias)
    z: Tensor = _LinearOfValues.apply(x, values, bias, packed, *index, out_features)  # type: ignore[no-untyped-call]
    return FUNCTIONS[activation](z) if activation else z


class _LinearOfValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        packed: Tensor,
        first: Tensor,
        columns: Tensor,
        places: Tensor,
        turned: Tensor,
        turned_places: Tensor,
        out_features: int,
    ) -> Any:
        ctx.save_for_backward(x, values, first, columns, turned, turned_places)
        return linear_op(x, packed, bias, out_features, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, values, first, columns, turned, turned_places = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad_x = grad_values = grad_bias = None
        if wanted[0]:
            turned = _with_values_op(turned, values, turned_places)
            grad_x = linear_op(grad, turned, None, x.shape[-1], 0)
        if wanted[1]:
            grad_values = _values_gradient_op(grad, x, first, columns).to(values.dtype)
        if wanted[2]:
            grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
        return grad_x, grad_values, grad_bias, *(None,) * 7
