"""The sparse operators: the door for numpy arrays and torch tensors.

Importing this module never imports torch. Where torch is loaded already, it registers ``torch.ops.prunus``;
otherwise the first tensor does (or ``import prunus.ops.torch_ops``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

import prunus._core as _core
from prunus._tools.arrays import is_tensor
from prunus.packed import PackedWeight

if TYPE_CHECKING:
    import torch

__all__ = ["ACTIVATIONS", "activation_number", "gated", "linear"]

# The numbers are in graphs that users saved: never renumber, only append.
ACTIVATIONS: dict[str | None, int] = {None: 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4}

_torch: Any = None  # prunus.ops.torch_ops, once torch is there


@overload
def linear(
    x: NDArray[Any],
    p: PackedWeight,
    bias: NDArray[Any] | None = None,
    activation: str | None = None,
    residual: NDArray[Any] | None = None,
) -> NDArray[Any]: ...
@overload
def linear(
    x: torch.Tensor,
    p: PackedWeight | torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor: ...
def linear(x: Any, p: Any, bias: Any = None, activation: str | None = None, residual: Any = None) -> Any:
    """Sparse linear layer ``activation(x @ w.T + bias) + residual`` for a packed weight w (n, k).

    x: float32, bfloat16 or float16 (..., k), a numpy array or a torch CPU tensor, any strides, any number
    of rows.
    p: a `PackedWeight`, or its buffer as a torch uint8 tensor.
    bias: float32 or the dtype of x, (n,), the same kind as x.
    activation: None, "relu", "gelu" (with erf), "gelu_tanh" (Hendrycks and Gimpel, arXiv:1606.08415) or
    "silu", applied at the store.
    residual: like x, (..., n), added at the store, after the activation.
    Returns (..., n), contiguous, of the kind and dtype of x, the same bits for any thread count. Sums are
    float32 and rounded once, at the store.
    A weight that is zero does not spread NaN or infinity of its input.

    Autograd follows tensors to x, bias and residual, once (no second derivative); the weight is frozen.

    Raises ``ValueError`` (shape, dtype, device, activation), ``TypeError`` (kind), ``FormatError`` (p is no
    packed weight) and ``RuntimeError`` inside a torch.func transform.

    >>> import numpy as np, prunus
    >>> p = prunus.pack(np.array([[0.0, 2.0], [1.0, 0.0]], dtype=np.float32))
    >>> prunus.linear(np.array([[3.0, -4.0]], dtype=np.float32), p, activation="relu")
    array([[0., 3.]], dtype=float32)
    """
    number = activation_number(activation)
    if isinstance(x, np.ndarray):
        _check_numpy(p=p, bias=bias, residual=residual)
        return _core.linear(x, p.buffer, bias, number, residual)
    return (_torch or _torch_for(x)).linear(x, p, bias, number, residual)


@overload
def gated(
    x: NDArray[Any],
    gate: PackedWeight,
    up: PackedWeight,
    gate_bias: NDArray[Any] | None = None,
    up_bias: NDArray[Any] | None = None,
    activation: str | None = "silu",
) -> NDArray[Any]: ...
@overload
def gated(
    x: torch.Tensor,
    gate: PackedWeight | torch.Tensor,
    up: PackedWeight | torch.Tensor,
    gate_bias: torch.Tensor | None = None,
    up_bias: torch.Tensor | None = None,
    activation: str | None = "silu",
) -> torch.Tensor: ...
def gated(
    x: Any, gate: Any, up: Any, gate_bias: Any = None, up_bias: Any = None, activation: str | None = "silu"
) -> Any:
    """``activation(x @ gate.T + gate_bias) * (x @ up.T + up_bias)``, the first half of a gated MLP.

    gate, up: two packed weights of one shape (n, k); everything else as in `prunus.linear`. One pass over x,
    and nothing between is written to memory, when both weights have the same format and tiles (pack them
    alike; above and below 85 % zeros the tiles differ); otherwise two passes.
    Returns (..., n). Source: Shazeer, GLU variants improve transformer, arXiv:2002.05202.

    Raises as `prunus.linear` does, and ``ValueError`` when the shapes of gate and up differ.

    >>> import numpy as np, prunus
    >>> eye = prunus.pack(np.eye(2, dtype=np.float32))
    >>> prunus.gated(np.array([[2.0, 3.0]], dtype=np.float32), eye, eye, activation=None)
    array([[4., 9.]], dtype=float32)
    """
    number = activation_number(activation)
    if isinstance(x, np.ndarray):
        _check_numpy(gate=gate, up=up, gate_bias=gate_bias, up_bias=up_bias)
        return _core.gated(x, gate.buffer, up.buffer, gate_bias, up_bias, number)
    return (_torch or _torch_for(x)).gated(x, gate, up, gate_bias, up_bias, number)


def activation_number(activation: str | None) -> int:
    """The number that stands for an activation in the torch op; ``ValueError`` for an unknown name.

    >>> activation_number("gelu")
    2
    """
    try:
        return ACTIVATIONS[activation]
    except (KeyError, TypeError):
        names = ", ".join(str(name) for name in ACTIVATIONS)
        raise ValueError(f"activation: expected one of {names}, got {activation!r}") from None


def _check_numpy(**operands: Any) -> None:
    """Kinds of what comes beside an array x: p, gate and up are packed weights, the rest arrays or None."""
    for name, value in operands.items():
        if name in ("p", "gate", "up"):
            if not isinstance(value, PackedWeight):
                raise TypeError(f"{name}: expected a PackedWeight, got {type(value).__name__}")
        elif value is not None and not isinstance(value, np.ndarray):
            raise TypeError(f"{name}: expected a numpy array like x, got {type(value).__name__}")


def _torch_for(x: object) -> Any:
    if not is_tensor(x):
        raise TypeError(f"x: expected a numpy array or a torch tensor, got {type(x).__name__}")
    return _load_torch()


def _load_torch() -> Any:
    global _torch
    from prunus.ops import torch_ops

    _torch = torch_ops
    return _torch


if sys.modules.get("torch") is not None:
    _load_torch()
