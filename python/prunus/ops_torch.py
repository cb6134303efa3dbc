"""torch.ops.prunus: schema and fake kernel here, the CPU kernel in C++ (csrc/bindings/torch_linear.cpp).

The extension does not link libtorch: `_core.join_torch` finds torch's stable C functions in the loaded
library, registers the kernel and makes torch's thread pool the one of every prunus function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import is_grad_enabled

from prunus import _core
from prunus.ops_autograd import linear_with_gradient
from prunus.packed import PackedWeight, tensor_view

__all__ = ["buffer_tensor", "linear", "linear_op"]

SCHEMA = "linear(Tensor x, Tensor packed, Tensor? bias, int out_features, int activation) -> Tensor"

# Lives as long as the process: dropping it would take the op away.
_library: Any = torch.library.Library("prunus", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
_core.join_torch(torch.__version__)
# The derivative is outside (ops_autograd), so autograd has nothing to do here: its fallback costs time in
# every call and turns a missing derivative into a silent None. The kernels, real and fake, refuse gradients.
_library.impl("linear", torch.library.fallthrough_kernel, "Autograd")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _linear_fake(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, out_features: int, activation: int
) -> torch.Tensor:
    if x.dtype not in DTYPES:
        raise ValueError(f"x: expected float32, bfloat16 or float16, got {_dtype_name(x)}")
    if bias is not None and bias.dtype not in (torch.float32, x.dtype):
        expected = "float32" if x.dtype == torch.float32 else f"float32 or {_dtype_name(x)}"
        raise ValueError(f"bias: expected {expected}, got {_dtype_name(bias)}")
    for name, tensor in (("x", x), ("bias", bias)):
        if tensor is not None and is_grad_enabled() and tensor.requires_grad:
            raise RuntimeError(_core.gradient_sentence(name))
    if x.dim() == 0:
        raise ValueError("x: expected (..., k), got ()")
    return x.new_empty((*x.shape[:-1], out_features))


def _refuse_transform(*arguments: object) -> torch.Tensor:
    raise RuntimeError(
        "x: expected a plain tensor, got one inside a torch.func transform (grad, jvp, vmap): use backward() "
        "instead; prunus.linear takes any leading dimensions without vmap"
    )


torch.library.register_fake("prunus::linear", _linear_fake, lib=_library)
_library.impl("linear", _refuse_transform, "FuncTorchDynamicLayerFrontMode")
linear_op: Any = torch.ops.prunus.linear.default


def linear(x: torch.Tensor, p: Any, bias: torch.Tensor | None, activation: int) -> torch.Tensor:
    """`prunus.linear` for tensors, the activation as its number: checks kinds, the kernel checks the rest.

    >>> import torch, prunus
    >>> p = prunus.pack(torch.eye(2))
    >>> linear(torch.ones(1, 2), p, None, 1)
    tensor([[1., 1.]])
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x: expected a numpy array or a torch tensor, got {type(x).__name__}")
    if not x.is_cpu:
        raise ValueError(f"x: expected a CPU tensor, got one on {x.device}")
    if bias is not None and not isinstance(bias, torch.Tensor):
        raise TypeError(f"bias: expected a torch tensor like x, got {type(bias).__name__}")
    if isinstance(p, PackedWeight):
        packed, out_features = buffer_tensor(p), p.shape[0]
    elif isinstance(p, torch.Tensor):
        packed, out_features = p, _out_features(p)
    else:
        raise TypeError(f"p: expected a PackedWeight or its buffer as a torch tensor, got {type(p).__name__}")
    if is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return linear_with_gradient(x, packed, bias, out_features, activation)
    y: torch.Tensor = linear_op(x, packed, bias, out_features, activation)
    return y


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


def _out_features(packed: torch.Tensor) -> int:
    if packed.dtype != torch.uint8 or packed.dim() != 1 or not packed.is_contiguous() or not packed.is_cpu:
        raise ValueError(
            f"p: expected a contiguous 1-D uint8 CPU tensor, got {str(packed.dtype).removeprefix('torch.')} "
            f"{tuple(packed.shape)} on {packed.device}"
        )
    return int(_core.packed_info(packed.detach().numpy())["n"])
