"""Modules that hold packed weights, and what fuses them."""

from prunus.nn.fuse import Fusion, fuse_, fusions
from prunus.nn.fused import Fused, FusedMLP, FusedResidual
from prunus.nn.shared import SharedLinear, SideBySide
from prunus.nn.sparse_linear import SparseLinear

__all__ = [
    "Fused",
    "FusedMLP",
    "FusedResidual",
    "Fusion",
    "SharedLinear",
    "SideBySide",
    "SparseLinear",
    "fuse_",
    "fusions",
]

# What is pickled names this package, not the file a class happens to live in.
for _module in (FusedMLP, FusedResidual, SharedLinear, SideBySide, SparseLinear):
    _module.__module__ = __name__
