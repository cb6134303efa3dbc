"""Prune PyTorch transformers and make the pruning pay."""

import importlib
from typing import TYPE_CHECKING, Any

from prunus import methods as _methods
from prunus._core import FormatError as FormatError
from prunus._core import __version__ as __version__
from prunus.methods import *  # noqa: F403
from prunus.patterns import NM as NM
from prunus.patterns import Block as Block
from prunus.patterns import Unstructured as Unstructured

# Public name -> module, imported at first use: `import prunus` stays cheap and never imports torch.
_LAZY = {
    "AccelerateReport": "prunus.accelerate",
    "Allocation": "prunus.allocation",
    "BalanceReport": "prunus.balance",
    "Batches": "prunus.recover",
    "Calibration": "prunus.calibration",
    "CompareReport": "prunus.report",
    "Distill": "prunus.recover",
    "ExportReport": "prunus.engines",
    "Gradual": "prunus.recover",
    "Heads": "prunus.shrink",
    "Layers": "prunus.shrink",
    "Neurons": "prunus.shrink",
    "OWL": "prunus.allocation",
    "PackedWeight": "prunus.packed",
    "PruneReport": "prunus.prune",
    "PruningCallback": "prunus.training.callback",
    "Recipe": "prunus.cli.recipes",
    "Reconstruct": "prunus.recover",
    "RecoverError": "prunus.recover",
    "RecoverReport": "prunus.recover",
    "Recovery": "prunus.recover",
    "Refit": "prunus.recover",
    "Sensitivity": "prunus.allocation",
    "ShrinkReport": "prunus.shrink",
    "SparseLinear": "prunus.nn",
    "Stats": "prunus.calibration",
    "Target": "prunus.balance",
    "Texts": "prunus.recover",
    "ZeroKeeper": "prunus.training",
    "accelerate_": "prunus.accelerate",
    "apply_mask_": "prunus.masks",
    "balance_": "prunus.balance",
    "compare": "prunus.report",
    "export": "prunus.engines",
    "fuse_": "prunus.nn",
    "gated": "prunus.ops",
    "keep_zeros": "prunus.training",
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
    "to_dense_": "prunus.nn",
}

if TYPE_CHECKING:
    from prunus.accelerate import AccelerateReport as AccelerateReport
    from prunus.accelerate import accelerate_ as accelerate_
    from prunus.allocation import OWL as OWL
    from prunus.allocation import Allocation as Allocation
    from prunus.allocation import Sensitivity as Sensitivity
    from prunus.balance import BalanceReport as BalanceReport
    from prunus.balance import Target as Target
    from prunus.balance import balance_ as balance_
    from prunus.calibration import Calibration as Calibration
    from prunus.calibration import Stats as Stats
    from prunus.checkpoint import load as load
    from prunus.checkpoint import load_pretrained as load_pretrained
    from prunus.checkpoint import save as save
    from prunus.cli.recipes import Recipe as Recipe
    from prunus.engines import ExportReport as ExportReport
    from prunus.engines import export as export
    from prunus.masks import apply_mask_ as apply_mask_
    from prunus.masks import normalize as normalize
    from prunus.masks import select as select
    from prunus.masks import select_global as select_global
    from prunus.nn import SparseLinear as SparseLinear
    from prunus.nn import fuse_ as fuse_
    from prunus.nn import to_dense_ as to_dense_
    from prunus.ops import gated as gated
    from prunus.ops import linear as linear
    from prunus.packed import PackedWeight as PackedWeight
    from prunus.packed import pack as pack
    from prunus.prune import PruneReport as PruneReport
    from prunus.prune import prune_ as prune_
    from prunus.recover import Batches as Batches
    from prunus.recover import Distill as Distill
    from prunus.recover import Gradual as Gradual
    from prunus.recover import Reconstruct as Reconstruct
    from prunus.recover import RecoverError as RecoverError
    from prunus.recover import RecoverReport as RecoverReport
    from prunus.recover import Recovery as Recovery
    from prunus.recover import Refit as Refit
    from prunus.recover import Texts as Texts
    from prunus.recover import recover_ as recover_
    from prunus.report import CompareReport as CompareReport
    from prunus.report import compare as compare
    from prunus.shrink import Heads as Heads
    from prunus.shrink import Layers as Layers
    from prunus.shrink import Neurons as Neurons
    from prunus.shrink import ShrinkReport as ShrinkReport
    from prunus.shrink import shrink_ as shrink_
    from prunus.training import ZeroKeeper as ZeroKeeper
    from prunus.training import keep_zeros as keep_zeros
    from prunus.training.callback import PruningCallback as PruningCallback
else:
    _HERE = ("NM", "Block", "FormatError", "Unstructured", "__version__")
    __all__ = sorted((*_HERE, *_LAZY, *_methods.__all__))


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(globals()["__all__"])
