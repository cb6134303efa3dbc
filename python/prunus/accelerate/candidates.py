"""What may take the place of a dense layer, as far as the user lets it round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

import prunus._core as _core
from prunus._tools.cuda import why_closed
from prunus._tools.progress import progress
from prunus.accelerate.survey import MIN_SPARSITY, Site
from prunus.families import weight_matrix
from prunus.nn import SparseLinear, TwoFourLinear
from prunus.nn.two_four import why_not_two_four

__all__ = [
    "CANDIDATES",
    "GPU_CANDIDATES",
    "GPU_PRECISIONS",
    "PRECISIONS",
    "Candidate",
    "Layers",
    "PackedLayer",
    "candidates_for",
    "pack_candidates",
]

# Tile products of a whole layer beat its 1x4 blocks up to about 80 % zeros: beyond this they are not tried.
MOST_ZEROS_STORED = 0.9
# A tile of these formats has all columns of a weight: a wider one they do not take.
MOST_DOT_COLUMNS, MOST_WARP_COLUMNS = _core.most_tile_cols("dot"), _core.most_tile_cols("warp")


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
#: On a GPU: our own format for few tokens, and torch's products of 2:4 weights, which are for many.
GPU_CANDIDATES = {
    "sparse": Candidate(None, "warp", None),
    "sparse bfloat16": Candidate("bfloat16", "warp", 0.02),
    "sparse int8": Candidate("int8", "warp", 0.1),
    "2:4": Candidate(None, "2:4", None),
}
GPU_PRECISIONS: dict[str, tuple[str, ...]] = {
    "float32": ("sparse", "2:4"),
    "bfloat16": ("sparse", "sparse bfloat16", "2:4"),
    "int8": tuple(GPU_CANDIDATES),
}

PackedLayer = SparseLinear | TwoFourLinear
#: By id(site), then by word.
Layers = dict[int, dict[str, PackedLayer]]


def candidates_for(site: Site) -> Mapping[str, Candidate]:
    """All ways of the device that the layer is on, by their words."""
    return CANDIDATES if site.device.type == "cpu" else GPU_CANDIDATES


def pack_candidates(sites: list[Site], precision: str, trainable: bool = False) -> Layers:
    """Every layer that may replace each of the sites; trainable: their weights are parameters.

    A layer on a GPU that nothing can replace gets the reason."""
    found: Layers = {}
    for site in progress(sites, "packing"):
        if site.device.type == "cpu":
            words = [word for word in PRECISIONS[precision] if _worth_a_try(site, CANDIDATES[word])]
        else:
            words = _words_on_gpu(site, precision, trainable)
        ways = candidates_for(site)
        found[id(site)] = {word: _packed(site, ways[word], trainable) for word in words}
    return found


def _packed(site: Site, how: Candidate, trainable: bool) -> PackedLayer:
    if how.format == "2:4":
        return TwoFourLinear.from_linear(site.module)
    layer = SparseLinear.from_linear(
        site.module, dtype=how.dtype, format=how.format, rows=how.rows, trainable=trainable
    )
    if layer.packed.device != site.device:
        layer.to(site.device)
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


def _words_on_gpu(site: Site, precision: str, trainable: bool) -> list[str]:
    """What can replace a layer on a GPU. Where nothing can, the reason that "sparse" has."""
    if trainable:
        site.reason = "layers that train their packed weight are on the cpu only"
        return []
    reasons = {word: _why_not(site, GPU_CANDIDATES[word]) for word in GPU_PRECISIONS[precision]}
    words = [word for word, reason in reasons.items() if not reason]
    if not words:
        site.reason = next(iter(reasons.values()))
    return words


def _why_not(site: Site, how: Candidate) -> str:
    weight = weight_matrix(site.module)
    if how.format == "2:4":
        return "shares its weight with an embedding" if site.tied else why_not_two_four(weight)
    if closed := why_closed():
        return f"on {site.device.type}: {closed}"
    if (site.sparsity or 0.0) < MIN_SPARSITY:
        return f"{site.sparsity or 0.0:.0%} zeros: too few"
    if weight.shape[1] > MOST_WARP_COLUMNS:
        return f"more than {MOST_WARP_COLUMNS:,} inputs"
    if not weight.isfinite().all():
        return "has values that are not finite"
    if how.dtype is None and weight.dtype == torch.float32:
        return 'weight is float32 on cuda: packed where precision "bfloat16" is allowed'
    if how.dtype == "bfloat16" and weight.dtype == torch.bfloat16:
        return "as sparse"
    return ""
