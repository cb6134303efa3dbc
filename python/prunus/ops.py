"""The sparse operators: the door for numpy arrays and torch tensors.

Importing this module never imports torch. Where torch is loaded already, it registers ``torch.ops.prunus``;
otherwise the first tensor does (or ``import prunus.ops_torch``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from prunus import _core
from prunus._arrays import is_tensor
from prunus.packed import PackedWeight

if TYPE_CHECKING:
    import torch

__all__ = ["ACTIVATIONS", "activation_number", "linear"]

# The numbers are in graphs that users saved: never renumber, only append.
ACTIVATIONS: dict[str | None, int] = {None: 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4}

_torch_linear: Callable[..., Any] | None = None


@overload
def linear(
    x: NDArray[Any],
    p: PackedWeight,
    bias: NDArray[Any] | None = None,
    activation: str | None = None,
) -> NDArray[Any]: ...
@overload
def linear(
    x: torch.Tensor,
    p: PackedWeight | torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
) -> torch.Tensor: ...
def linear(x: Any, p: Any, bias: Any = None, activation: str | None = None) -> Any:
    """Sparse linear layer ``activation(x @ w.T + bias)`` for a packed weight w (n, k).

    x: float32, bfloat16 or float16 (..., k), a numpy array or a torch CPU tensor, any strides, any number
    of rows.
    p: a `PackedWeight`, or its buffer as a torch uint8 tensor.
    bias: float32 or the dtype of x, (n,), the same kind as x.
    activation: None, "relu", "gelu" (with erf), "gelu_tanh" (Hendrycks and Gimpel, arXiv:1606.08415) or
    "silu", applied at the store.
    Returns (..., n), contiguous, of the kind and dtype of x, the same bits for any thread count. Sums are
    float32 and rounded once, at the store.
    A weight that is zero does not spread NaN or infinity of its input.

    Autograd follows tensors to x and bias, once (no second derivative); the weight is frozen.

    Raises ``ValueError`` (shape, dtype, device, activation), ``TypeError`` (kind), ``FormatError`` (p is no
    packed weight) and ``RuntimeError`` inside a torch.func transform.

    >>> import numpy as np, prunus
    >>> p = prunus.pack(np.array([[0.0, 2.0], [1.0, 0.0]], dtype=np.float32))
    >>> prunus.linear(np.array([[3.0, -4.0]], dtype=np.float32), p, activation="relu")
    array([[0., 3.]], dtype=float32)
    """
    number = activation_number(activation)
    if isinstance(x, np.ndarray):
        return _linear_numpy(x, p, bias, number)
    path = _torch_linear or _find_torch_linear(x)
    return path(x, p, bias, number)


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


def _linear_numpy(x: NDArray[Any], p: Any, bias: Any, activation: int) -> NDArray[Any]:
    if not isinstance(p, PackedWeight):
        raise TypeError(f"p: expected a PackedWeight, got {type(p).__name__}")
    if bias is not None and not isinstance(bias, np.ndarray):
        raise TypeError(f"bias: expected a numpy array like x, got {type(bias).__name__}")
    y: NDArray[Any] = _core.linear(x, p.buffer, bias, activation)
    return y


def _find_torch_linear(x: object) -> Callable[..., Any]:
    if not is_tensor(x):
        raise TypeError(f"x: expected a numpy array or a torch tensor, got {type(x).__name__}")
    return _load_torch()


def _load_torch() -> Callable[..., Any]:
    global _torch_linear
    from prunus import ops_torch

    _torch_linear = ops_torch.linear
    return _torch_linear


if sys.modules.get("torch") is not None:
    _load_torch()
