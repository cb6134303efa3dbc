"""The derivative of the sparse operator: of its input and its bias; the weight is frozen.

Outside the op: `register_autograd` was measured to cost 5.6 us in every call without gradients. Entered only
when a gradient is wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, relu, silu
from torch.utils.weak import WeakTensorKeyDictionary

import prunus._core as _core
from prunus.ops.factor import Factor
from prunus.ops.registered import autocast_dtype
from prunus.packed import PackedWeight, array_view, pack, tensor_view

__all__ = ["gated_with_gradient", "linear_with_gradient", "under_autocast"]

SCHEMA = "input_gradient(Tensor grad, Tensor packed, int in_features) -> Tensor"
# By the numbers of prunus.ops.ACTIVATIONS.
FUNCTIONS: tuple[Any, ...] = (None, relu, gelu, lambda z: gelu(z, approximate="tanh"), silu)

# Lives as long as the process: dropping it would take the op away.
_library: Any = torch.library.Library("prunus", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
# Columns of w that are dense at once on a GPU.
STRIP = 4096
# Buffer of a packed weight -> the fingerprint of its bytes and the packed transposed weight.
_transposed: Any = WeakTensorKeyDictionary()


def linear_with_gradient(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, out_features: int, activation: int
) -> torch.Tensor:
    """`torch.ops.prunus.linear` that autograd can follow to x and bias.

    The activation is torch's own here, because its derivative needs what goes into it. The first backward
    packs the transposed weight (about as large as the packed one) and keeps it as long as the weight lives.

    >>> import prunus
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> p = prunus.pack(torch.tensor([[0.0, 2.0]]))
    >>> prunus.linear(x, p).sum().backward()
    >>> x.grad
    tensor([[0., 2.]])
    """
    if not 0 <= activation < len(FUNCTIONS):
        raise ValueError(f"activation: expected 0..{len(FUNCTIONS) - 1}, got {activation}")
    x, bias = under_autocast(x, bias)
    z: torch.Tensor = _Linear.apply(x, packed, bias, out_features)  # type: ignore[no-untyped-call]
    return FUNCTIONS[activation](z) if activation else z


def under_autocast(x: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x and bias in the dtype of the `torch.autocast` of x's device; outside of it as they are.

    Called outside of the Functions, so that gradients come in the types of what was given.

    >>> under_autocast(torch.ones(1), None)
    (tensor([1.]), None)
    """
    dtype = autocast_dtype(x.device.type)
    if dtype is None:
        return x, bias
    return x.to(dtype), None if bias is None else bias.to(dtype)


def gated_with_gradient(
    x: torch.Tensor,
    gate: Factor,
    up: Factor,
    out_features: int,
    activation: int,
) -> torch.Tensor:
    """`torch.ops.prunus.gated` that autograd can follow. Not fused: the backward needs both
    factors.

    >>> import prunus
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> p = prunus.pack(torch.tensor([[0.0, 2.0]]))
    >>> prunus.gated(x, p, p, activation=None).sum().backward()
    >>> x.grad
    tensor([[0., 8.]])
    """
    return linear_with_gradient(x, *gate, out_features, activation) * linear_with_gradient(
        x, *up, out_features, 0
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, out_features: int
    ) -> Any:
        ctx.save_for_backward(packed)
        ctx.in_features = x.shape[-1] if x.dim() else 0
        return torch.ops.prunus.linear.default(x, packed, bias, out_features, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (packed,) = ctx.saved_tensors
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.prunus.input_gradient.default(grad, packed, ctx.in_features)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
        return grad_x, None, grad_bias, None


def _input_gradient(grad: torch.Tensor, packed: torch.Tensor, in_features: int) -> torch.Tensor:
    """grad (..., n) -> grad . w (..., k): the same operator with the transposed weight."""
    y: torch.Tensor = torch.ops.prunus.linear.default(grad, _transpose(packed), None, in_features, 0)
    return y


def _transpose(packed: torch.Tensor) -> torch.Tensor:
    buffer = array_view(packed)
    # Not torch's version counter: a write through `.data`, numpy or inference mode does not count there.
    now = _core.fingerprint(buffer)
    known, transposed = _transposed.get(packed, (None, None))
    if known != now or transposed is None:
        weight = PackedWeight.from_buffer(buffer)
        # int8 values share a scale per row; the columns do not.
        dtype = "float32" if weight.dtype == "int8" else weight.dtype
        transposed = tensor_view(pack(weight.to_dense().T, dtype=dtype).buffer)
        _transposed[packed] = now, transposed
    found: torch.Tensor = transposed
    return found


def _input_gradient_on_gpu(grad: torch.Tensor, packed: torch.Tensor, in_features: int) -> torch.Tensor:
    """The same by dense products with a strip of columns of w after another: unit vectors as tokens bring
    them. Training has many tokens, for which the packed form is not made; nothing leaves the device."""
    n, found = grad.shape[-1], grad.new_empty((*grad.shape[:-1], in_features))
    for start in range(0, in_features, STRIP):
        stop = min(start + STRIP, in_features)
        units = grad.new_zeros((stop - start, in_features))
        units.diagonal(start).fill_(1.0)
        columns = torch.ops.prunus.linear.default(units, packed, None, n, 0)
        found[..., start:stop] = torch.matmul(grad, columns.t())
    return found


def _input_gradient_fake(grad: torch.Tensor, packed: torch.Tensor, in_features: int) -> torch.Tensor:
    return grad.new_empty((*grad.shape[:-1], in_features))


_library.impl("input_gradient", _input_gradient, "CPU")
_library.impl("input_gradient", _input_gradient_on_gpu, "CUDA")
_library.impl("input_gradient", torch.library.fallthrough_kernel, "Autograd")
torch.library.register_fake("prunus::input_gradient", _input_gradient_fake, lib=_library)
