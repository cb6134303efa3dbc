"""Prune PyTorch transformers and make the pruning pay."""

import importlib
from typing import TYPE_CHECKING, Any

from prunus._core import FormatError, __version__
from prunus.patterns import NM, Block, Unstructured

if TYPE_CHECKING:
    from prunus.ops import linear
    from prunus.packed import PackedWeight, pack

# Public name -> module, imported at first use: `import prunus` stays cheap and never imports torch.
_LAZY = {
    "PackedWeight": "prunus.packed",
    "linear": "prunus.ops",
    "pack": "prunus.packed",
}

__all__ = [
    "NM",
    "Block",
    "FormatError",
    "PackedWeight",
    "Unstructured",
    "__version__",
    "linear",
    "pack",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
