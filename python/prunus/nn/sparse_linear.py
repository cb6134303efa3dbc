"""SparseLinear: a Linear whose weight is packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, is_grad_enabled, nn

import prunus._core as _core
from prunus._core import FormatError
from prunus.families import is_conv1d, weight_matrix
from prunus.nn.devices import pack_for_cuda, packed_for, refuse_training
from prunus.nn.weight import weight_of
from prunus.ops import activation_number
from prunus.ops.autograd import linear_with_gradient
from prunus.ops.differentiable import differentiable_linear, is_traced
from prunus.ops.registered import linear_op
from prunus.ops.torch_ops import buffer_tensor
from prunus.ops.training import (
    ValueIndex,
    linear_of_values,
    pack_with_values,
    value_index,
    values_of,
    with_values,
)
from prunus.packed import PackedWeight, array_view, pack

if TYPE_CHECKING:
    from typing_extensions import Self

    from prunus.packed import DtypeLike

__all__ = ["SparseLinear"]


class SparseLinear(nn.Module):
    """A linear layer that stores and computes only the weights a mask kept: `y = act(x . w^T + b)`.

    x (..., in_features) -> y (..., out_features), both float32, bfloat16 or float16; under
    `torch.autocast` in its dtype, as a Linear. `packed` (1-D uint8 buffer) is the packed weight,
    `bias` an ordinary parameter or None, `activation` None, "relu", "gelu", "gelu_tanh" or "silu".
    state_dict, deepcopy, pickle, torch.compile and export work as for nn.Linear; casts of the model change
    the bias and the dtype that `to_linear` gives (`weight_dtype`), never the packed bytes; moves to CUDA and
    back pack the same values anew, in the format of the device. The constructor
    makes a layer of zeros to load a state_dict into: most layers come from `from_linear`.

    Gradients go to x and to the bias. With `trainable=True` they go to the weight too: `values`, a parameter
    (nnz,), holds what the mask kept, in row-major order of the weight, and gets a gradient there alone, so
    that what was pruned costs nothing and stays pruned, whatever the optimiser. `packed` follows `values`
    before it is used, saved or read by `packed_weight`. Values are stored as float32.

    >>> import torch, prunus
    >>> layer = prunus.SparseLinear.from_linear(torch.nn.Linear(8, 4))
    >>> layer(torch.ones(2, 8)).shape
    torch.Size([2, 4])
    """

    packed: Tensor
    bias: nn.Parameter | None
    #: The kept weights (nnz,), of a trainable layer only.
    values: nn.Parameter
    #: Of the dense weight that this layer stands for.
    weight_dtype: torch.dtype = torch.float32
    #: Whether it stands for a `transformers` Conv1D, whose weight is (in_features, out_features).
    conv1d: bool = False
    #: The parameter, an embedding's, that this layer holds a packed copy of; None: no other module has it.
    copy_of: nn.Parameter | None = None

    #: Where `values` belong, of a trainable layer only.
    _index: ValueIndex
    #: The fingerprint of the values that `packed` holds.
    _packed_from: int | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        activation_number(activation)  # refuses unknown names
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        zeros = pack(np.zeros((out_features, in_features), np.float32))
        self.register_buffer("packed", torch.from_numpy(zeros.buffer))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        if trainable:
            self.train_values_()

    @classmethod
    def from_packed(
        cls,
        packed: PackedWeight,
        bias: Tensor | None = None,
        activation: str | None = None,
        trainable: bool = False,
    ) -> Self:
        """A layer around a packed weight (n, k); bias (n,) is used as it is when it is a Parameter.

        Raises ValueError when bias has another shape, or a trainable layer's values are not float32.

        >>> import numpy as np, prunus
        >>> prunus.SparseLinear.from_packed(prunus.pack(np.eye(3, dtype=np.float32))).out_features
        3
        """
        n, k = packed.shape
        if bias is not None and tuple(bias.shape) != (n,):
            raise ValueError(f"bias: expected shape ({n},), got {tuple(bias.shape)}")
        layer = cls(0, 0, bias=False, activation=activation)
        layer.in_features, layer.out_features = k, n
        layer.packed = buffer_tensor(packed)
        if bias is not None:
            layer.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias.detach().clone())
        return layer.train_values_() if trainable else layer

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        mask: Tensor | None = None,
        dtype: DtypeLike | None = None,
        format: str = "auto",
        activation: str | None = None,
        rows: int | None = None,
        trainable: bool = False,
    ) -> Self:
        """Pack a Linear (or a `transformers` Conv1D); the bias parameter is shared, not copied.

        mask: bool (n, k), True = keep; None keeps every nonzero weight. dtype, format, rows: as for
        `prunus.pack`, but that a bfloat16 or float16 weight is stored as it is unless dtype says otherwise.
        trainable: `values` is a parameter of the weight's dtype, with a place for every kept weight, also one
        that is zero now; it is stored as float32, in any format but dot.
        Raises TypeError for other modules, ValueError for shapes, dtypes and devices that cannot be packed.

        >>> import torch, prunus
        >>> linear = torch.nn.Linear(2, 1)
        >>> layer = prunus.SparseLinear.from_linear(linear, mask=torch.tensor([[True, False]]))
        >>> bool(layer.to_linear().weight[0, 1] == 0)
        True
        """
        weight = weight_matrix(linear)
        refuse_training(weight.device, trainable)
        if trainable:
            packed, values = pack_with_values(weight, mask, dtype, format)
            layer = cls._around(linear, packed, activation).train_values_()
            layer.values = nn.Parameter(values, linear.weight.requires_grad)  # type: ignore[arg-type]
            return layer
        if dtype is None and weight.dtype in (torch.bfloat16, torch.float16):
            dtype = weight.dtype
        if weight.is_cuda:
            layer = cls._around(linear, pack_for_cuda(weight, mask, dtype, format), activation)
            layer.packed = layer.packed.to(weight.device)
            return layer
        return cls._around(linear, pack(weight, mask, dtype, format, rows), activation)

    @classmethod
    def _around(cls, linear: nn.Module, packed: PackedWeight, activation: str | None) -> Self:
        weight = weight_matrix(linear)
        # An attribute, not only a parameter: a bias under a mask or a parametrization is computed.
        layer = cls.from_packed(packed, getattr(linear, "bias", None), activation)
        layer.weight_dtype = weight.dtype
        layer.conv1d = is_conv1d(linear)
        layer.train(linear.training)
        return layer

    @property
    def trainable(self) -> bool:
        """Whether the weight is a parameter: `values`."""
        return self._parameters.get("values") is not None

    def train_values_(self, on: bool = True) -> Self:
        """Make the weight a parameter, or (on=False) freeze it as it is now, in place; returns the layer.

        An optimiser has to be made after this. Raises ValueError where the packed values are not float32 or
        its format is dot, or the layer is on CUDA.

        >>> import torch, prunus
        >>> layer = prunus.SparseLinear.from_linear(torch.nn.Linear(2, 1)).train_values_()
        >>> layer(torch.tensor([[3.0, 4.0]])).sum().backward()
        >>> layer.values.grad
        tensor([3., 4.])
        """
        if on and not self.trainable:
            refuse_training(self.packed.device, on)
            self._index = value_index(self.packed)
            self.values = nn.Parameter(values_of(self.packed_weight))
            self._packed_from = None
        elif not on and self.trainable:
            self.packed = self.current()
            del self.values, self._index
        return self

    def current(self) -> Tensor:
        """`packed` with the values as they are now."""
        values = self._parameters.get("values")
        if values is None:
            return self.packed
        if torch.compiler.is_compiling():
            return with_values(self.packed, values.detach(), self._index.places)
        if values.is_cpu:
            # Not torch's version counter, which a write through `.data`, numpy or inference mode does not
            # raise. 0.06 ms for a million values.
            with torch.inference_mode(False):
                detached = values.detach().contiguous()
                now = _core.fingerprint(detached.view(torch.uint8).numpy()) if len(values) else 0
                if now != self._packed_from:
                    self.packed = with_values(self.packed, detached, self._index.places)
                    self._packed_from = now
        return self.packed

    @property
    def packed_weight(self) -> PackedWeight:
        """The packed weight, sharing the buffer's memory: shape, nnz, sparsity, format, dtype, to_dense()."""
        return PackedWeight(array_view(self.current()))

    @property
    def weight(self) -> Tensor:
        """The dense weight, as that of the layer this one stands for: (n, k), of a Conv1D (k, n); read only.

        For code that reads `layer.weight`. Its shape, dtype and device cost nothing; who asks for its values
        makes the layer slow: they are unpacked, and forgotten when nobody holds the tensor any more.

        >>> import torch, prunus
        >>> layer = prunus.SparseLinear.from_linear(torch.nn.Linear(8, 4))
        >>> layer.weight.shape, torch.equal(layer.weight, layer.to_linear().weight)
        (torch.Size([4, 8]), True)
        """
        return weight_of(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            self._tie(value)
        else:
            super().__setattr__(name, value)

    def _tie(self, weight: Any) -> None:
        """A head that holds a copy of an embedding's weight is tied to it again (`tie_weights`)."""
        if self.copy_of is None or not isinstance(weight, nn.Parameter):
            raise AttributeError(
                f"weight: expected to be read only, got an assignment of {_describe(weight)}: a packed "
                "weight is frozen. Put to_linear() in the place of the layer first"
            )
        if weight is not self.copy_of:
            old = self.packed_weight
            packed = pack(weight.detach(), dtype=old.dtype, format="dot" if old.format == "dot" else "auto")
            self.packed, (self.out_features, self.in_features) = buffer_tensor(packed), packed.shape
            self.weight_dtype, self.__dict__["copy_of"] = weight.dtype, weight

    def to_linear(self) -> nn.Linear:
        """A dense nn.Linear with the same weights, zeros where the mask pruned, and the same bias; its
        weight has the dtype of the one this layer was made of, and follows casts of the model. A copy of an
        embedding's weight (`copy_of`) becomes that weight again.

        Raises ValueError when the layer has an activation: a Linear cannot hold one.

        >>> import torch, prunus
        >>> prunus.SparseLinear.from_linear(torch.nn.Linear(8, 4)).to_linear()
        Linear(in_features=8, out_features=4, bias=True)
        """
        if self.activation is not None:
            raise ValueError(
                f"activation: expected None (a Linear holds no activation), got {self.activation!r}"
            )
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        if self.copy_of is not None:
            linear.weight = self.copy_of
        else:
            weight = torch.from_numpy(self.packed_weight.to_dense())
            linear.weight = nn.Parameter(weight.to(self.packed.device, self.weight_dtype))
        if self.bias is not None:
            linear.bias = self.bias
        return linear.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        number = activation_number(self.activation)
        packed, bias = self.current(), self.bias
        values = self._parameters.get("values")
        if values is not None and is_grad_enabled() and values.requires_grad:
            return linear_of_values(x, values, bias, packed, self._index, self.out_features, number)
        if is_traced(x):
            return differentiable_linear(x, packed, bias, self.out_features, number)
        if is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
            return linear_with_gradient(x, packed, bias, self.out_features, number)
        y: Tensor = linear_op(x, packed, bias, self.out_features, number)
        return y

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "model: expected layers that torch.jit.script can read, got a packed one: torch.export and "
            "torch.jit.trace take it, and prunus.to_dense_(model) makes it an ordinary one"
        )

    def extra_repr(self) -> str:
        text = (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )
        if self.packed.device.type == "cpu":
            w = self.packed_weight
            text += f", sparsity={w.sparsity:.3f}, format={w.format}, dtype={w.dtype}"
            text += ", trainable=True" if self.trainable else ""
        return text + (f", activation={self.activation}" if self.activation else "")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves follow the model; casts (`.type(dtype)` casts every buffer) must not turn bytes into
        numbers."""
        packed, again = self.packed, self.packed
        like = fn(torch.empty(0, dtype=self.weight_dtype, device=packed.device))
        if like.is_cuda != packed.is_cuda and not like.is_meta:
            refuse_training(like.device, self.trainable)
            # Before anything is moved: a weight that the device cannot hold leaves the layer as it was.
            again = packed_for(packed, like.is_cuda)
        self.weight_dtype = like.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if again is not packed or self.packed.dtype != torch.uint8:
            self.packed = again.to(self.packed.device)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.current()  # packed and values are to agree
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Checks every offset of a packed weight from outside, whose size may differ from the present one."""
        given = state_dict.get(prefix + "packed")
        if given is not None:
            self._check_kind(given, prefix + "packed")
            if not args[0].get("assign_to_params_buffers", False):
                # What is checked is what is kept, whoever writes into the given bytes meanwhile.
                given = torch.from_numpy(array_view(given).copy())
                state_dict = {**state_dict, prefix + "packed": given}
            self._check_packed(given, prefix + "packed")
            if (again := packed_for(given, self.packed.is_cuda)) is not given:
                given, state_dict = again, {**state_dict, prefix + "packed": again.to(self.packed.device)}
            # New memory, even where the size is the same: the old bytes may belong to a PackedWeight.
            self.packed = torch.empty(given.shape, dtype=torch.uint8, device=self.packed.device)
            if self.trainable:
                state_dict = self._make_room(given, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _make_room(self, given: Tensor, state_dict: dict[str, Any], prefix: str) -> dict[str, Any]:
        """For the values of another pattern; a frozen layer's state has them in its packed weight alone."""
        index, packed = value_index(given), PackedWeight(array_view(given))
        self._index, self._packed_from = index, None
        if len(self.values) != packed.nnz:
            room = self.values.new_empty(packed.nnz)
            self.values = nn.Parameter(room, self.values.requires_grad)
        return (
            state_dict
            if prefix + "values" in state_dict
            else {
                **state_dict,
                prefix + "values": values_of(packed),
            }
        )

    @staticmethod
    def _check_kind(given: Any, name: str) -> None:
        if not isinstance(given, Tensor) or given.dtype != torch.uint8 or given.dim() != 1:
            raise FormatError(f"{name}: expected a 1-D uint8 tensor, got {_describe(given)}")

    def _check_packed(self, given: Tensor, name: str) -> None:
        try:
            shape = PackedWeight.from_buffer(array_view(given)).shape
        except FormatError as error:
            raise FormatError(f"{name}: {error}") from None
        if shape != (self.out_features, self.in_features):
            raise FormatError(f"{name}: expected shape {(self.out_features, self.in_features)}, got {shape}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
