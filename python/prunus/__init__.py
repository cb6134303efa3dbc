"""Prune PyTorch transformers and make the pruning pay."""

from prunus._core import FormatError, __version__
from prunus.patterns import NM, Block, Unstructured

__all__ = ["NM", "Block", "FormatError", "Unstructured", "__version__"]
