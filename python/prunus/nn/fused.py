"""Modules that do in one pass over the output what a model does in several: activation, gate, residual.

They keep the names and objects of what they replace, so a state_dict stays as it is; `fuse_` puts them in.
Where a projection is exchanged later for one that is not packed (`to_linear`), they go step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from prunus.nn.sparse_linear import SparseLinear
from prunus.ops import activation_number
from prunus.ops.autograd import FUNCTIONS
from prunus.ops.factor import Factor
from prunus.ops.registered import autocast_dtype
from prunus.ops.torch_ops import gated_of, linear_of

__all__ = ["Fused", "FusedMLP", "FusedResidual"]


class Fused(nn.Module):
    """What fused modules share: the children of `original` under their names; roles: what each is -> name."""

    #: What this stands for; None in pickles of the first version.
    original: nn.Module | None = None

    def __init__(self, original: nn.Module, roles: Mapping[str, str]) -> None:
        super().__init__()
        self.roles = dict(roles)
        self.__dict__["original"] = original  # not a child: its children are here
        # The same dictionary, not a copy: who holds the original as the parent of a layer (a Site) still
        # reaches the layer that runs.
        self.__dict__["_modules"] = original._modules
        self.train(original.training)

    def part(self, role: str) -> Any:
        """The child of that role; None where there is none."""
        return self._modules.get(self.roles.get(role, ""))

    def dropped(self, x: Tensor) -> Tensor:
        """x through the dropout of the module, which does nothing outside of training."""
        dropout = self.part("dropout")
        return x if dropout is None else dropout(x)

    def extra_repr(self) -> str:
        return ", ".join(f"{role}={name}" for role, name in self.roles.items())


class FusedMLP(Fused):
    """An MLP, or its first half, whose activation (and gate) is done where the product is stored.

    x (..., k) -> act(up(x)), or act(gate(x)) * up(x) in one pass over x; then `down` and dropout where the
    module has them. Roles: up, gate, down, dropout, and inner_dropout, which stands before `down`; activation
    as for `prunus.linear`.

    >>> import prunus, torch
    >>> from torch import nn
    >>> up, down = (prunus.SparseLinear.from_linear(nn.Linear(*s)) for s in ((4, 8), (8, 4)))
    >>> mlp = nn.ModuleDict({"up": up, "act": nn.ReLU(), "down": down})
    >>> FusedMLP(mlp, {"up": "up", "down": "down"}, "relu")(torch.ones(2, 4)).shape
    torch.Size([2, 4])
    """

    def __init__(self, original: nn.Module, roles: Mapping[str, str], activation: str) -> None:
        super().__init__(original, roles)
        self.fused_activation = activation  # "activation" is a child's name in some models

    def forward(self, x: Tensor) -> Tensor:
        up, gate, down = self.part("up"), self.part("gate"), self.part("down")
        number = activation_number(self.fused_activation)
        if not (_plain(up) and (gate is None or _plain(gate))):
            h = FUNCTIONS[number](up(x)) if gate is None else FUNCTIONS[number](gate(x)) * up(x)
        elif gate is None:
            h = linear_of(x, up.packed, up.bias, up.out_features, number)
        else:
            h = gated_of(
                x, Factor(gate.packed, gate.bias), Factor(up.packed, up.bias), up.out_features, number
            )
        inner = self.part("inner_dropout")
        h = h if inner is None else inner(h)
        return h if down is None else self.dropped(down(h))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.fused_activation}"


class FusedResidual(Fused):
    """norm(dropout(dense(x)) + residual): the sum is done where the product is stored, outside of training.

    x (..., k), residual (..., n) -> (..., n). Roles: dense, norm, dropout.

    >>> import prunus, torch
    >>> from torch import nn
    >>> dense = prunus.SparseLinear.from_linear(nn.Linear(4, 3))
    >>> output = nn.ModuleDict({"dense": dense, "norm": nn.LayerNorm(3)})
    >>> FusedResidual(output, {"dense": "dense", "norm": "norm"})(torch.ones(2, 4), torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        dense = self.part("dense")
        if self.training or not _plain(dense) or not _alike(x, residual, dense.out_features):
            h = self.dropped(dense(x)) + residual
        else:
            h = linear_of(x, dense.packed, dense.bias, dense.out_features, 0, residual)
        normed: Tensor = self.part("norm")(h)
        return normed


def _alike(x: Tensor, residual: Tensor, width: int) -> bool:
    """Whether the residual has the shape and the dtype of the product: else torch broadcasts and promotes."""
    dtype = autocast_dtype(x.device.type) or x.dtype
    return residual.dtype == dtype and residual.shape == (*x.shape[:-1], width)


def _plain(layer: nn.Module) -> bool:
    """Packed, and nothing but a product and a bias; its packed weight is not a copy of trained values."""
    return isinstance(layer, SparseLinear) and layer.activation is None and not layer.trainable
