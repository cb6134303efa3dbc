"""Prune PyTorch transformers and make the pruning pay."""

from prunus._core import FormatError, __version__

__all__ = ["FormatError", "__version__"]
