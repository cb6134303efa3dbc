"""What may take the place of a dense layer, as far as the user lets it round."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import prunus._core as _core
from prunus._tools.progress import progress
from prunus.accelerate.survey import MIN_SPARSITY, Site
from prunus.families import weight_matrix
from prunus.nn import SparseLinear

__all__ = ["CANDIDATES", "PRECISIONS", "Candidate", "Layers", "pack_candidates"]

# Tile products of a whole layer beat its 1x4 blocks up to about 80 % zeros: beyond this they are not tried.
MOST_ZEROS_STORED = 0.9
# A tile of dot has all columns of a weight: a wider one it does not take.
MOST_DOT_COLUMNS = _core.most_tile_cols("dot")


@dataclass(frozen=True)
class Candidate:
    """A way to store a layer and to multiply with it; `dtype` None: that of the layer's weight."""

    dtype: str | None
    format: str
    # The relative error (L2) of an answer that is no fault; None: only sums in another order.
    error: float | None
    # Of a block, and with them most zeros stored: only tall blocks have tile products.
    rows: int | None = None


#: By the word that a report's "runs" has for it. The errors are several times what rounding costs a weight
#: without outliers (bfloat16 0.3 %, int8 1 %): more means that this layer should not be rounded so.
CANDIDATES = {
    "sparse": Candidate(None, "auto", None),
    "sparse bfloat16": Candidate("bfloat16", "auto", 0.02),
    "bfloat16": Candidate("bfloat16", "dot", 0.02),
    "sparse int8": Candidate("int8", "auto", 0.1),
    "int8": Candidate("int8", "dot", 0.1),
    "int8, zeros stored": Candidate("int8", "dot", 0.1, rows=32),
}
#: What each precision allows.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "float32": ("sparse",),
    "bfloat16": ("sparse", "sparse bfloat16", "bfloat16"),
    "int8": tuple(CANDIDATES),
}

#: By id(site), then by word.
Layers = dict[int, dict[str, SparseLinear]]


def pack_candidates(sites: list[Site], precision: str, trainable: bool = False) -> Layers:
    """Every layer that may replace each of the sites; trainable: their weights are parameters."""
    found: Layers = {}
    for site in progress(sites, "packing"):
        words = [word for word in PRECISIONS[precision] if _worth_a_try(site, CANDIDATES[word])]
        found[id(site)] = {word: _packed(site, CANDIDATES[word], trainable) for word in words}
    return found


def _packed(site: Site, how: Candidate, trainable: bool) -> SparseLinear:
    layer = SparseLinear.from_linear(
        site.module, dtype=how.dtype, format=how.format, rows=how.rows, trainable=trainable
    )
    if site.tied:
        layer.__dict__["copy_of"] = site.module.weight  # not a parameter of this layer too
    return layer


def _worth_a_try(site: Site, how: Candidate) -> bool:
    weight = weight_matrix(site.module)
    if how.rows and not MIN_SPARSITY <= (site.sparsity or 0.0) <= MOST_ZEROS_STORED:
        return False
    if how.format == "dot":
        return weight.shape[1] <= MOST_DOT_COLUMNS and bool(weight.isfinite().all())
    if how.dtype == "int8" and not weight.isfinite().all():
        return False
    same = how.dtype == "bfloat16" and weight.dtype == torch.bfloat16  # as "sparse" stores it
    return not same and (site.sparsity or 0.0) >= MIN_SPARSITY
