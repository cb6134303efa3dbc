"""Modules that hold packed weights, and what fuses them."""

import torch  # noqa: F401
from torch import Tensor, nn  # noqa: F401

from prunus.nn.dense import to_dense_
from prunus.nn.experts import Experts
from prunus.nn.fuse import Fusion, fuse_, fusions
from prunus.nn.fused import Fused, FusedMLP, FusedResidual
from prunus.nn.shared import SharedLinear, SideBySide
from prunus.nn.sparse_linear import SparseLinear
from prunus.nn.two_four import TwoFourLinear
from prunus.ops.training import ValueIndex  # noqa: F401

__all__ = [
    "Experts",
    "Fused",
    "FusedMLP",
    "FusedResidual",
    "Fusion",
    "SharedLinear",
    "SideBySide",
    "SparseLinear",
    "TwoFourLinear",
    "fuse_",
    "fusions",
    "to_dense_",
]

# What is pickled names this package, not the file a class happens to live in; so annotations are resolved
# here too, by the names of torch above.
for _module in (Experts, FusedMLP, FusedResidual, SharedLinear, SideBySide, SparseLinear, TwoFourLinear):
    _module.__module__ = __name__
