"""Figures of one pruned model, and of what its layers are fed."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from prunus.calibration import as_calibration, untouched, walk
from prunus.families import stacks
from prunus.prune.targets import find_targets

NEIGHBOURS = 10

Floats = npt.NDArray[np.float32]


def embedding_quality(dense: Tensor, got: Tensor) -> dict[str, float]:
    """Unit embeddings (texts, features), the same texts in the same order.

    cosine: mean over texts of dense . got. spearman: rank correlation of the cosines of all pairs of texts.
    overlap: mean share of a text's ten nearest others that are the same.
    """
    from scipy.stats import spearmanr

    before, after = (_similarities(e) for e in (dense, got))
    pairs = np.triu_indices(len(before), 1)
    both = _nearest(before) & _nearest(after)
    return {
        "cosine": float((dense * got).sum(1).mean()),
        "spearman": float(spearmanr(before[pairs], after[pairs]).statistic),
        "overlap": float(both.sum()) / (NEIGHBOURS * len(before)),
    }


def _similarities(embeddings: Tensor) -> Floats:
    e = embeddings.numpy()
    return np.asarray(e @ e.T, np.float32)


def _nearest(similarities: Floats) -> npt.NDArray[np.bool_]:
    others = similarities.copy()
    np.fill_diagonal(others, -np.inf)
    best = np.argpartition(-others, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    mask = np.zeros(others.shape, bool)
    np.put_along_axis(mask, best, True, axis=1)
    return mask


def input_variation(model: nn.Module, batches: list[Any]) -> dict[str, float]:
    """Layer -> coefficient of variation (sd over mean) of the L2 norms of its input channels.

    At 0 all channels weigh the same and Wanda, comparing within a row, is magnitude.
    """
    targets, _ = find_targets(model, None)
    layers = {target.name: list(target.modules.values()) for target in targets}
    calibration = as_calibration(batches)
    calibration.sequential = False
    found = {}
    with untouched(model), torch.no_grad():
        for group in walk(model, layers, calibration, frozenset({"sumsq"})):
            for name, stats in group.measure().items():
                assert stats.sumsq is not None
                norms = stats.sumsq.sqrt()
                found[name] = float(norms.std(correction=0) / norms.mean())
    return found


def live_weights(model: nn.Module) -> tuple[int, int]:
    """(nonzero, all) matrix weights of the transformer blocks: what is gone counts the same, zero or cut."""
    matrices = [
        p for stack in stacks(model) for block in stack.layers for p in block.parameters() if p.dim() == 2
    ]
    return sum(int(torch.count_nonzero(p)) for p in matrices), sum(p.numel() for p in matrices)
