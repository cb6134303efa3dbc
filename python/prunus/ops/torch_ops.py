"""The operators for tensors: arguments are checked here, and gradients go their own way."""

from __future__ import annotations

from typing import Any

import torch
from torch import is_grad_enabled

import prunus._core as _core
from prunus._tools.cuda import open_library
from prunus.ops.autograd import gated_with_gradient, linear_with_gradient
from prunus.ops.differentiable import differentiable_gated, differentiable_linear, is_traced
from prunus.ops.factor import Factor
from prunus.ops.registered import dtype_name, gated_op, linear_add_op, linear_op
from prunus.packed import PackedWeight, array_view, tensor_view

__all__ = ["buffer_tensor", "gated", "gated_of", "linear", "linear_of", "wants_gradient"]


def linear(
    x: torch.Tensor,
    p: Any,
    bias: torch.Tensor | None,
    activation: int,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """`prunus.linear` for tensors, the activation as its number: checks kinds, the kernel checks the rest.

    >>> import torch, prunus
    >>> p = prunus.pack(torch.eye(2))
    >>> linear(torch.ones(1, 2), p, None, 1)
    tensor([[1., 1.]])
    """
    _check_kinds(x, bias=bias, residual=residual)
    packed, out_features = _buffer("p", p, x)
    return linear_of(x, packed, bias, out_features, activation, residual)


def linear_of(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    out_features: int,
    activation: int,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """`linear` for the bytes of a packed weight whose out_features are known: a compiler can trace it.

    >>> import torch, prunus
    >>> p = buffer_tensor(prunus.pack(torch.eye(2)))
    >>> linear_of(torch.ones(1, 2), p, None, 2, 1)
    tensor([[1., 1.]])
    """
    if is_traced(x):
        z = differentiable_linear(x, packed, bias, out_features, activation)
        return z if residual is None else z + residual
    if wants_gradient(x, bias, residual):
        z = linear_with_gradient(x, packed, bias, out_features, activation)
        return z if residual is None else z + residual
    y: torch.Tensor
    if residual is None:
        y = linear_op(x, packed, bias, out_features, activation)
    else:
        y = linear_add_op(x, packed, bias, residual, out_features, activation)
    return y


def gated(
    x: torch.Tensor,
    gate: Any,
    up: Any,
    gate_bias: torch.Tensor | None,
    up_bias: torch.Tensor | None,
    activation: int,
) -> torch.Tensor:
    """`prunus.gated` for tensors, the activation as its number: checks kinds, the kernel checks the rest.

    >>> import torch, prunus
    >>> p = prunus.pack(torch.eye(2))
    >>> gated(torch.full((1, 2), 3.0), p, p, None, None, 0)
    tensor([[9., 9.]])
    """
    _check_kinds(x, gate_bias=gate_bias, up_bias=up_bias)
    first, out_features = _buffer("gate", gate, x)
    second, _ = _buffer("up", up, x)
    return gated_of(x, Factor(first, gate_bias), Factor(second, up_bias), out_features, activation)


def gated_of(
    x: torch.Tensor,
    gate: Factor,
    up: Factor,
    out_features: int,
    activation: int,
) -> torch.Tensor:
    """`gated` for the bytes of two packed weights, each with its bias, as `linear_of`.

    >>> import torch, prunus
    >>> p = buffer_tensor(prunus.pack(torch.eye(2)))
    >>> gated_of(torch.full((1, 2), 3.0), Factor(p, None), Factor(p, None), 2, 0)
    tensor([[9., 9.]])
    """
    if is_traced(x):
        return differentiable_gated(x, gate, up, out_features, activation)
    if wants_gradient(x, gate.bias, up.bias):
        return gated_with_gradient(x, gate, up, out_features, activation)
    y: torch.Tensor = gated_op(x, gate.packed, up.packed, gate.bias, up.bias, out_features, activation)
    return y


def wants_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd would record what is done with one of them.

    >>> import torch
    >>> wants_gradient(None, torch.ones(1)), wants_gradient(torch.ones(1, requires_grad=True))
    (False, True)
    """
    return is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _check_kinds(x: Any, **others: Any) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x: expected a numpy array or a torch tensor, got {type(x).__name__}")
    if x.is_cuda:
        open_library("x")
    elif not x.is_cpu:
        raise ValueError(f"x: expected a tensor on the CPU or CUDA, got one on {x.device}")
    for name, tensor in others.items():
        if tensor is not None and not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name}: expected a torch tensor like x, got {type(tensor).__name__}")


def _buffer(name: str, p: Any, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The bytes of a packed weight, on the device of x, and its out_features."""
    if isinstance(p, (PackedWeight, torch.Tensor)):
        packed = buffer_tensor(p) if isinstance(p, PackedWeight) else p
        if packed.device != x.device:
            raise ValueError(
                f"{name}: expected a packed weight on {x.device} like x (for CUDA the bytes of one with "
                f"format 'warp', as a tensor there, or a SparseLinear), got one on {packed.device}"
            )
        return packed, p.shape[0] if isinstance(p, PackedWeight) else _out_features(name, p)
    raise TypeError(
        f"{name}: expected a PackedWeight or its buffer as a torch tensor, got {type(p).__name__}"
    )


def buffer_tensor(p: PackedWeight) -> torch.Tensor:
    """The buffer of p as a uint8 tensor of the same memory, made once.

    >>> import numpy as np, prunus
    >>> buffer_tensor(prunus.pack(np.eye(2, dtype=np.float32))).dtype
    torch.uint8
    """
    if p.tensor is None:  # made before torch was imported
        if torch.compiler.is_compiling():
            return torch.from_numpy(p.buffer)  # an input of the graph; what tracing changes spoils its guards
        p.tensor = tensor_view(p.buffer)
    tensor: torch.Tensor = p.tensor
    return tensor


def _out_features(name: str, packed: torch.Tensor) -> int:
    if packed.dtype != torch.uint8 or packed.dim() != 1 or not packed.is_contiguous():
        raise ValueError(
            f"{name}: expected a contiguous 1-D uint8 tensor, got {dtype_name(packed)} {tuple(packed.shape)} "
            f"on {packed.device}"
        )
    # From CUDA all bytes are fetched in every call: a loop holds a SparseLinear, or calls the operator.
    info = _core.packed_info(array_view(packed))
    if packed.is_cuda != (info["format"] == "warp"):
        device = "CUDA" if packed.is_cuda else "the CPU"
        raise ValueError(f"{name}: expected a format that {device} multiplies, got {info['format']}")
    return int(info["n"])
