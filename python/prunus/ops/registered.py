"""torch.ops.prunus as torch knows it: schemas, fake kernels, autocast; the CPU kernels are in C++
(csrc/bindings/torch_linear.cpp).

The extension does not link libtorch: `_core.join_torch` finds torch's stable C functions in the loaded
library, registers the kernels and makes torch's thread pool the one of every prunus function.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import is_grad_enabled

import prunus._core as _core
from prunus._tools.cuda import LIBRARY

__all__ = [
    "DTYPES",
    "attention_op",
    "autocast_dtype",
    "dtype_name",
    "gated_op",
    "linear_add_op",
    "linear_many_op",
    "linear_op",
    "refuse_transform",
]

SCHEMAS = (
    "linear(Tensor x, Tensor packed, Tensor? bias, int out_features, int activation) -> Tensor",
    "linear_add(Tensor x, Tensor packed, Tensor? bias, Tensor residual, int out_features, int activation)"
    " -> Tensor",
    "gated(Tensor x, Tensor gate, Tensor up, Tensor? gate_bias, Tensor? up_bias, int out_features,"
    " int activation) -> Tensor",
    "linear_many(Tensor x, Tensor[] packed, Tensor?[] biases, int[] out_features) -> Tensor[]",
    # Answers lie as (texts, queries, heads, dim); its Python is in attention.py.
    "attention(Tensor query, Tensor key, Tensor value, Tensor? mask, float scale, bool causal) -> Tensor",
    # Of training on the packed weight; their Python is in training.py.
    "with_values(Tensor packed, Tensor values, Tensor places) -> Tensor",
    "values_gradient(Tensor grad, Tensor x, Tensor first, Tensor columns) -> Tensor",
)

# Lives as long as the process: dropping it would take the op away.
_library: Any = torch.library.Library("prunus", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema in SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
_core.join_torch(torch.__version__)
if LIBRARY.exists():  # the first call of CUDA is the first operator's: a process may still be forked
    with suppress(RuntimeError):  # which says why then
        _core.cuda_open(str(LIBRARY))
# The derivative is outside (autograd.py), so autograd has nothing to do here: its fallback costs time in
# every call and turns a missing derivative into a silent None. The kernels, real and fake, refuse gradients.
for _name in ("linear", "linear_add", "gated", "linear_many", "attention"):
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def dtype_name(tensor: torch.Tensor) -> str:
    """The word for the dtype of a tensor.

    >>> dtype_name(torch.ones(1))
    'float32'
    """
    return str(tensor.dtype).removeprefix("torch.")


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype of `torch.autocast(device)`; None outside of it. device: the kind, "cpu" or "cuda".

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     autocast_dtype("cpu"), autocast_dtype("cuda")
    (torch.bfloat16, None)
    """
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _fake(x: torch.Tensor, out_features: int, **others: torch.Tensor | None) -> torch.Tensor:
    """What the answer looks like; others: biases and the residual, by name."""
    if x.dtype not in DTYPES:
        raise ValueError(f"x: expected float32, bfloat16 or float16, got {dtype_name(x)}")
    for name, tensor in others.items():
        allowed = (x.dtype,) if name == "residual" else (torch.float32, x.dtype)
        if tensor is not None and tensor.dtype not in allowed:
            expected = dtype_name(x) if len({*allowed}) == 1 else f"float32 or {dtype_name(x)}"
            raise ValueError(f"{name}: expected {expected}, got {dtype_name(tensor)}")
    for name, tensor in (("x", x), *others.items()):
        if tensor is not None and is_grad_enabled() and tensor.requires_grad:
            raise RuntimeError(_core.gradient_sentence(name))
    if x.dim() == 0:
        raise ValueError("x: expected (..., k), got ()")
    return x.new_empty((*x.shape[:-1], out_features))


def _linear_fake(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, out_features: int, activation: int
) -> torch.Tensor:
    return _fake(x, out_features, bias=bias)


def _linear_add_fake(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor,
    out_features: int,
    activation: int,
) -> torch.Tensor:
    return _fake(x, out_features, bias=bias, residual=residual)


def _gated_fake(
    x: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    gate_bias: torch.Tensor | None,
    up_bias: torch.Tensor | None,
    out_features: int,
    activation: int,
) -> torch.Tensor:
    return _fake(x, out_features, gate_bias=gate_bias, up_bias=up_bias)


def _linear_many_fake(
    x: torch.Tensor,
    packed: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    out_features: Sequence[int],
) -> list[torch.Tensor]:
    for name, given in (("biases", biases), ("out_features", out_features)):
        if len(given) != len(packed):
            raise ValueError(f"{name}: expected {len(packed)}, one for each of packed, got {len(given)}")
    return [_fake(x, n, **{f"biases[{i}]": biases[i]}) for i, n in enumerate(out_features)]


def _attention_fake(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    if query.dim() != 4:
        raise ValueError(f"query: expected (texts, heads, queries, dim), got {tuple(query.shape)}")
    for name, tensor in (("query", query), ("key", key), ("value", value), ("mask", mask)):
        if tensor is not None and is_grad_enabled() and tensor.requires_grad:
            raise RuntimeError(_core.gradient_sentence(name))
    texts, heads, queries, dim = query.shape
    return query.new_empty((texts, queries, heads, dim))


def refuse_transform(*arguments: object) -> torch.Tensor:
    """The kernel of our ops inside torch.func: RuntimeError, whatever the arguments."""
    raise RuntimeError(
        "x: expected a plain tensor, got one inside a torch.func transform (grad, jvp, vmap): use backward() "
        "instead; prunus.linear takes any leading dimensions without vmap"
    )


_fakes: dict[str, Any] = {
    "linear": _linear_fake,
    "linear_add": _linear_add_fake,
    "gated": _gated_fake,
    "linear_many": _linear_many_fake,
    "attention": _attention_fake,
}
for _name, _function in _fakes.items():
    torch.library.register_fake(f"prunus::{_name}", _function, lib=_library)
    _library.impl(_name, refuse_transform, "FuncTorchDynamicLayerFrontMode")
linear_op: Any = torch.ops.prunus.linear.default
linear_add_op: Any = torch.ops.prunus.linear_add.default
gated_op: Any = torch.ops.prunus.gated.default
linear_many_op: Any = torch.ops.prunus.linear_many.default
attention_op: Any = torch.ops.prunus.attention.default


def _lower(argument: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors, and those in lists, in dtype; the rest as it is."""
    if isinstance(argument, torch.Tensor):
        return argument.to(dtype) if argument.is_floating_point() else argument
    return [_lower(one, dtype) for one in argument] if isinstance(argument, (list, tuple)) else argument


def _under_autocast(op: Any, device: str, key: Any) -> Any:
    """What `torch.autocast(device)` does for a Linear: floating inputs, and so the answer, in its dtype."""

    def run(*arguments: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            if op is linear_add_op and arguments[3].dtype != dtype:
                # As torch adds: in the wider of the two types.
                x, packed, bias, residual, *rest = arguments
                return linear_op(_lower(x, dtype), packed, _lower(bias, dtype), *rest) + residual
            return op(*(_lower(a, dtype) for a in arguments))

    return run


for _name, _op in (
    ("linear", linear_op),
    ("linear_add", linear_add_op),
    ("gated", gated_op),
    ("linear_many", linear_many_op),
    ("attention", attention_op),
):
    for _device, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        _kernel = _under_autocast(_op, _device, getattr(torch._C.DispatchKey, _key))
        _library.impl(_name, _kernel, _key)
