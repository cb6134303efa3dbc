"""TwoFourLinear: a Linear whose weight is one of torch's own 2:4 tensors (cuSPARSELt, CUTLASS) on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prunus.families import is_conv1d, weight_matrix
from prunus.nn.weight import note_read

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TwoFourLinear", "is_two_four", "why_not_two_four"]

DTYPES = (torch.bfloat16, torch.float16)
# What torch's tensors want n and k to be multiples of, of these dtypes, in both of their libraries.
ROWS, COLUMNS = 32, 64


class TwoFourLinear(nn.Module):
    """A linear layer whose weight has at most two values in every four consecutive inputs.

    x (..., in_features) -> y (..., out_features), both of the weight's dtype (bfloat16, float16) on a GPU
    whose tensor cores skip zeros; the products are torch's. It stands for the Linear that it was made of:
    the state_dict is that one's, `weight` is the dense weight (made when it is read), deepcopy and pickle
    work. Where torch cannot store the weight so (moved to the CPU, cast to float32), the layer holds it dense
    and answers the same. Gradients go to x and the bias; the weight is frozen.

    >>> layer = TwoFourLinear.from_linear(nn.Linear(4, 2))
    >>> layer(torch.ones(3, 4)).shape, sorted(layer.state_dict())
    (torch.Size([3, 2]), ['bias', 'weight'])
    """

    bias: nn.Parameter | None
    #: What of the stored weight takes memory.
    packed: Tensor
    #: Whether it stands for a `transformers` Conv1D, whose weight is (in_features, out_features).
    conv1d: bool
    activation = None
    #: The weight (n, k) as it is stored: torch's tensor, or a dense one.
    _stored: Tensor

    def __init__(self, weight: Tensor, bias: nn.Parameter | None = None, conv1d: bool = False) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias, self.conv1d = bias, conv1d
        self._store(weight)

    @classmethod
    def from_linear(cls, linear: nn.Module) -> Self:
        """Of a Linear or a `transformers` Conv1D; the bias parameter is shared, not copied. TypeError for
        other modules."""
        weight = weight_matrix(linear)
        bias: Any = linear._parameters.get("bias")
        layer = cls(weight, bias, is_conv1d(linear))
        layer.train(linear.training)
        return layer

    def _store(self, weight: Tensor) -> None:
        """(n, k): as torch's tensor where that can be, else dense."""
        weight = weight.detach()
        if weight.device.type != "meta" and not why_not_two_four(weight):
            self.__dict__["_stored"] = torch.sparse.to_sparse_semi_structured(weight.contiguous())
        else:
            self.__dict__["_stored"] = weight.clone()
        held = getattr(self._stored, "packed", None)
        self.register_buffer("packed", self._stored if held is None else held, persistent=False)

    @property
    def compressed(self) -> bool:
        """Whether the weight is stored as one of torch's tensors now."""
        return self._stored is not self.packed

    def dense(self) -> Tensor:
        """The weight (n, k)."""
        stored: Any = self._stored
        return stored.to_dense() if self.compressed else stored  # type: ignore[no-any-return]

    @property
    def weight(self) -> Tensor:
        """The dense weight in the layout of the layer that this one stands for; a new tensor, read only."""
        note_read(self, True)
        return self.dense().t() if self.conv1d else self.dense()

    def to_linear(self) -> nn.Linear:
        """A dense Linear (n, k) with the same weight and bias.

        >>> TwoFourLinear.from_linear(nn.Linear(4, 2)).to_linear()
        Linear(in_features=4, out_features=2, bias=True)
        """
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.dense().clone())
        linear.bias = self.bias  # type: ignore[assignment]
        return linear.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.compressed or not x.numel():
            return nn.functional.linear(x, self.dense(), self.bias)
        bias = self.bias
        if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
            y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
            return y if bias is None else y + bias.to(y.dtype)
        return nn.functional.linear(x.contiguous(), self._stored, bias)

    def extra_repr(self) -> str:
        form = "2:4" if self.compressed else "dense"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, stored={form}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts are those of the dense weight."""
        weight = fn(self.dense())
        packed = self._buffers.pop("packed")
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        except BaseException:
            self._buffers["packed"] = packed
            raise
        self._store(weight)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.dense().t() if self.conv1d else self.dense()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "weight"
        given = state_dict.get(key)
        rest = {name: value for name, value in state_dict.items() if name != key}
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        shape = (self.in_features, self.out_features)
        shape = shape if self.conv1d else shape[::-1]
        if given is None:
            missing_keys.append(key)
        elif tuple(given.shape) != shape:
            error_msgs.append(f"{key}: expected shape {shape}, got {tuple(given.shape)}")
        else:
            old = self.packed
            self._store((given.t() if self.conv1d else given).to(old.device, self._stored.dtype))

    def __getstate__(self) -> dict[str, Any]:
        buffers = {name: b for name, b in self._buffers.items() if name != "packed"}
        return self.__dict__ | {"_stored": self.dense(), "_buffers": buffers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        weight = state["_stored"]
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._store(weight)


class _Product(torch.autograd.Function):
    """x . w^T; torch's tensor knows no gradient of x, the dense weight does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: TwoFourLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x.contiguous(), layer._stored)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight = ctx.layer.dense()
        return grad @ weight.to(grad.dtype), None


def is_two_four(weight: Tensor) -> bool:
    """Whether every four consecutive inputs of a weight (n, k) have at most two values that are not zero.

    >>> is_two_four(torch.tensor([[1.0, 0.0, 0.0, 2.0]])), is_two_four(torch.ones(1, 4))
    (True, False)
    """
    n, k = weight.shape
    return k % 4 == 0 and bool(((weight != 0).reshape(n, k // 4, 4).sum(2) <= 2).all())


def why_not_two_four(weight: Tensor) -> str:
    """Why torch cannot store a weight (n, k) as a 2:4 tensor; "" where it can.

    >>> why_not_two_four(torch.zeros(32, 64))
    'float32 on cpu'
    """
    n, k = weight.shape
    if weight.device.type != "cuda" or weight.dtype not in DTYPES:
        return f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}"
    if n % ROWS or k % COLUMNS or not n or not k:
        return f"{n} x {k} is no multiple of {ROWS} x {COLUMNS}"
    if not is_two_four(weight):
        return "has more than two values in four inputs"
    if not bool(weight.isfinite().all()):
        return "has values that are not finite"
    return _why_unable(weight.device, weight.dtype)


_unable: dict[tuple[torch.device, torch.dtype], str] = {}


def _why_unable(device: torch.device, dtype: torch.dtype) -> str:
    """What torch says to a small product on this device; "" where it is right. Tried once."""
    key = (device, dtype)
    if key not in _unable:
        _unable[key] = _try(device, dtype)
    return _unable[key]


@torch.no_grad()
def _try(device: torch.device, dtype: torch.dtype) -> str:
    with torch.autocast(device.type, enabled=False):
        pattern = torch.tensor([1.0, 0.0, 0.0, -2.0], dtype=dtype, device=device)
        weight = pattern.repeat(4 * ROWS, 2 * COLUMNS // 4)
        x = torch.ones(8, weight.shape[1], dtype=dtype, device=device)
        try:
            stored: Any = torch.sparse.to_sparse_semi_structured(weight)
            right = torch.equal(stored.to_dense(), weight)
            right &= torch.equal(nn.functional.linear(x, stored), nn.functional.linear(x, weight))
        except Exception as error:  # no library, no code for this device: torch says so in many ways
            words = (str(error).splitlines() or [type(error).__name__])[0]
            return f"torch has no 2:4 products here ({words})"
    return "" if right else "torch's 2:4 products are wrong here"
