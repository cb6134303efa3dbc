"""Prune PyTorch transformers and make the pruning pay."""

import importlib
from typing import TYPE_CHECKING, Any

from prunus._core import FormatError, __version__
from prunus.patterns import NM, Block, Unstructured

if TYPE_CHECKING:
    from prunus.accelerate import AccelerateReport, accelerate_
    from prunus.allocation import OWL, Allocation, Sensitivity
    from prunus.balance import BalanceReport, Target, balance_
    from prunus.calibration import Calibration, Stats
    from prunus.checkpoint import load, load_pretrained, save
    from prunus.masks import apply_mask_, normalize, select, select_global
    from prunus.methods import SNIP, Magnitude, Method, Random, SparseGPT, Taylor, Wanda, least_squares
    from prunus.nn import SparseLinear, fuse_
    from prunus.ops import gated, linear
    from prunus.packed import PackedWeight, pack
    from prunus.prune import PruneReport, prune_
    from prunus.recover import (
        Batches,
        Distill,
        Reconstruct,
        RecoverError,
        RecoverReport,
        Recovery,
        Refit,
        Texts,
        recover_,
    )
    from prunus.report import CompareReport, compare
    from prunus.shrink import Heads, Layers, Neurons, ShrinkReport, shrink_
    from prunus.training import ZeroKeeper, keep_zeros

# Public name -> module, imported at first use: `import prunus` stays cheap and never imports torch.
_LAZY = {
    "AccelerateReport": "prunus.accelerate",
    "Allocation": "prunus.allocation",
    "BalanceReport": "prunus.balance",
    "Batches": "prunus.recover",
    "Calibration": "prunus.calibration",
    "CompareReport": "prunus.report",
    "Distill": "prunus.recover",
    "Heads": "prunus.shrink",
    "Layers": "prunus.shrink",
    "Magnitude": "prunus.methods",
    "Method": "prunus.methods",
    "Neurons": "prunus.shrink",
    "OWL": "prunus.allocation",
    "PackedWeight": "prunus.packed",
    "PruneReport": "prunus.prune",
    "Random": "prunus.methods",
    "Reconstruct": "prunus.recover",
    "RecoverError": "prunus.recover",
    "RecoverReport": "prunus.recover",
    "Recovery": "prunus.recover",
    "Refit": "prunus.recover",
    "SNIP": "prunus.methods",
    "Sensitivity": "prunus.allocation",
    "ShrinkReport": "prunus.shrink",
    "SparseGPT": "prunus.methods",
    "SparseLinear": "prunus.nn",
    "Stats": "prunus.calibration",
    "Target": "prunus.balance",
    "Taylor": "prunus.methods",
    "Texts": "prunus.recover",
    "Wanda": "prunus.methods",
    "ZeroKeeper": "prunus.training",
    "accelerate_": "prunus.accelerate",
    "apply_mask_": "prunus.masks",
    "balance_": "prunus.balance",
    "compare": "prunus.report",
    "fuse_": "prunus.nn",
    "gated": "prunus.ops",
    "keep_zeros": "prunus.training",
    "least_squares": "prunus.methods",
    "linear": "prunus.ops",
    "load": "prunus.checkpoint",
    "load_pretrained": "prunus.checkpoint",
    "normalize": "prunus.masks",
    "pack": "prunus.packed",
    "prune_": "prunus.prune",
    "recover_": "prunus.recover",
    "save": "prunus.checkpoint",
    "select": "prunus.masks",
    "select_global": "prunus.masks",
    "shrink_": "prunus.shrink",
}

__all__ = [
    "NM",
    "OWL",
    "SNIP",
    "AccelerateReport",
    "Allocation",
    "BalanceReport",
    "Batches",
    "Block",
    "Calibration",
    "CompareReport",
    "Distill",
    "FormatError",
    "Heads",
    "Layers",
    "Magnitude",
    "Method",
    "Neurons",
    "PackedWeight",
    "PruneReport",
    "Random",
    "Reconstruct",
    "RecoverError",
    "RecoverReport",
    "Recovery",
    "Refit",
    "Sensitivity",
    "ShrinkReport",
    "SparseGPT",
    "SparseLinear",
    "Stats",
    "Target",
    "Taylor",
    "Texts",
    "Unstructured",
    "Wanda",
    "ZeroKeeper",
    "__version__",
    "accelerate_",
    "apply_mask_",
    "balance_",
    "compare",
    "fuse_",
    "gated",
    "keep_zeros",
    "least_squares",
    "linear",
    "load",
    "load_pretrained",
    "normalize",
    "pack",
    "prune_",
    "recover_",
    "save",
    "select",
    "select_global",
    "shrink_",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
