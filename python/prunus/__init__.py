"""Prune PyTorch transformers and make the pruning pay."""

import importlib
from typing import TYPE_CHECKING, Any

from prunus._core import FormatError, __version__
from prunus.patterns import NM, Block, Unstructured

if TYPE_CHECKING:
    from prunus._compare import CompareReport, compare
    from prunus.accelerate import AccelerateReport, accelerate_
    from prunus.checkpoint import load, save
    from prunus.masks import apply_mask_, normalize, select, select_global
    from prunus.nn import SparseLinear
    from prunus.ops import linear
    from prunus.packed import PackedWeight, pack

# Public name -> module, imported at first use: `import prunus` stays cheap and never imports torch.
_LAZY = {
    "AccelerateReport": "prunus.accelerate",
    "CompareReport": "prunus._compare",
    "PackedWeight": "prunus.packed",
    "SparseLinear": "prunus.nn",
    "accelerate_": "prunus.accelerate",
    "apply_mask_": "prunus.masks",
    "compare": "prunus._compare",
    "linear": "prunus.ops",
    "load": "prunus.checkpoint",
    "normalize": "prunus.masks",
    "pack": "prunus.packed",
    "save": "prunus.checkpoint",
    "select": "prunus.masks",
    "select_global": "prunus.masks",
}

__all__ = [
    "NM",
    "AccelerateReport",
    "Block",
    "CompareReport",
    "FormatError",
    "PackedWeight",
    "SparseLinear",
    "Unstructured",
    "__version__",
    "accelerate_",
    "apply_mask_",
    "compare",
    "linear",
    "load",
    "normalize",
    "pack",
    "save",
    "select",
    "select_global",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
