"""torch.ops.prunus.differentiable_linear and differentiable_gated: what graphs hold instead of the plain ops.

A plain op refuses tensors that want a gradient: its derivative is outside of it (autograd.py), where an
exported or symbolically traced program has no way to go. These ones carry it, for some
microseconds more in every call; the backward computes the forward again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_exporting
from torch.fx import Proxy

from prunus.ops.autograd import gated_with_gradient, linear_with_gradient
from prunus.ops.factor import Factor
from prunus.ops.registered import autocast_dtype

__all__ = ["differentiable_gated", "differentiable_linear", "is_traced"]

SCHEMAS = (
    "differentiable_linear(Tensor x, Tensor packed, Tensor? bias, int out_features, int activation)"
    " -> Tensor",
    "differentiable_gated(Tensor x, Tensor gate, Tensor up, Tensor? gate_bias, Tensor? up_bias,"
    " int out_features, int activation) -> Tensor",
)

# Lives as long as the process: dropping it would take the ops away.
_library: Any = torch.library.Library("prunus", "FRAGMENT")  # type: ignore[no-untyped-call]


def is_traced(x: Any) -> bool:
    """Whether a graph is being made that shall run with and without gradients.

    >>> is_traced(torch.ones(2))
    False
    """
    return type(x) is Proxy or is_exporting()  # in every call: nothing slower


def differentiable_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, out_features: int, activation: int
) -> Tensor:
    """`torch.ops.prunus.linear` with its derivative of x and bias.

    >>> import prunus
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> p = prunus.pack(torch.tensor([[0.0, 2.0]])).tensor
    >>> differentiable_linear(x, p, None, 1, 1).sum().backward()
    >>> x.grad
    tensor([[0., 2.]])
    """
    x, bias = _lowered(x, packed), _lowered(bias, packed)
    y: Tensor = torch.ops.prunus.differentiable_linear.default(x, packed, bias, out_features, activation)
    return y


def differentiable_gated(
    x: Tensor,
    gate: Factor,
    up: Factor,
    out_features: int,
    activation: int,
) -> Tensor:
    """`torch.ops.prunus.gated` with its derivative.

    >>> import prunus
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> p = prunus.pack(torch.tensor([[0.0, 2.0]])).tensor
    >>> differentiable_gated(x, Factor(p, None), Factor(p, None), 1, 0).sum().backward()
    >>> x.grad
    tensor([[0., 8.]])
    """
    x = _lowered(x, gate.packed)
    biases = (_lowered(gate.bias, gate.packed), _lowered(up.bias, up.packed))
    y: Tensor = torch.ops.prunus.differentiable_gated.default(
        x, gate.packed, up.packed, *biases, out_features, activation
    )
    return y


def _lowered(tensor: Any, packed: Any) -> Any:
    """As autocast does: outside of the op, so that gradients come in their own types. packed: knows the
    device, where a traced tensor does not."""
    dtype = None if type(packed) is Proxy else autocast_dtype(packed.device.type)
    return tensor if tensor is None or dtype is None else tensor.to(dtype)


def _linear(x: Tensor, packed: Tensor, bias: Tensor | None, out_features: int, activation: int) -> Any:
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return torch.ops.prunus.linear.default(x, packed, bias, out_features, activation)


def _gated(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    out_features: int,
    activation: int,
) -> Any:
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return torch.ops.prunus.gated.default(x, gate, up, gate_bias, up_bias, out_features, activation)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, ctx.numbers = inputs[:-2], inputs[-2:]
    ctx.save_for_backward(*tensors)


def _again(ctx: Any, grad: Tensor, forward: Any) -> tuple[Tensor | None, ...]:
    """Gradients of all inputs, by the forward that autograd can follow."""
    wanted = ctx.needs_input_grad[:-2]
    tensors = [
        t.detach().requires_grad_() if want else t for t, want in zip(ctx.saved_tensors, wanted, strict=True)
    ]
    with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
        y = forward(*tensors, *ctx.numbers)
    chosen = [t for t, want in zip(tensors, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(y, chosen, grad))
    return (*(next(found) if want else None for want in wanted), None, None)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _again(ctx, grad, linear_with_gradient)


def _gated_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    def forward(x: Tensor, gate: Tensor, up: Tensor, gate_bias: Any, up_bias: Any, *numbers: int) -> Tensor:
        return gated_with_gradient(x, Factor(gate, gate_bias), Factor(up, up_bias), *numbers)

    return _again(ctx, grad, forward)


_made: Any = zip(
    SCHEMAS, ("linear", "gated"), (_linear, _gated), (_linear_backward, _gated_backward), strict=True
)
for _schema, _name, _forward, _backward in _made:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    for _device in ("CPU", "CUDA"):
        _library.impl(f"differentiable_{_name}", _forward, _device)
    # The plain op's own answer for tensors without values.
    torch.library.register_fake(f"prunus::differentiable_{_name}", _forward, lib=_library)
    torch.library.register_autograd(
        f"prunus::differentiable_{_name}", _backward, setup_context=_keep, lib=_library
    )
