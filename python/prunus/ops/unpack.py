"""torch.ops.prunus.unpack: the dense weight behind a packed one, for graphs that a compiler traces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunus.packed import PackedWeight, array_view

__all__ = ["unpack_op"]

SCHEMA = "unpack(Tensor packed, int out_features, int in_features) -> Tensor"

# Lives as long as the process: dropping it would take the op away.
_library: Any = torch.library.Library("prunus", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))


def _unpack(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    weight = PackedWeight(array_view(packed))
    if weight.shape != (out_features, in_features):
        raise ValueError(f"packed: expected shape {(out_features, in_features)}, got {weight.shape}")
    return torch.from_numpy(weight.to_dense()).to(packed.device)


def _unpack_fake(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    return packed.new_empty((out_features, in_features), dtype=torch.float32)


for _device in ("CPU", "CUDA"):  # from a GPU by way of the CPU: who asks for the weight waits
    _library.impl("unpack", _unpack, _device)
_library.impl("unpack", torch.library.fallthrough_kernel, "Autograd")
torch.library.register_fake("prunus::unpack", _unpack_fake, lib=_library)
unpack_op: Any = torch.ops.prunus.unpack.default
