"""Weights, inputs and the fp64 answer of a linear case. Same numbers in every run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cases import Layer
from prunus.ops import reference

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Problem:
    """One thing to compute: activation(x (m, k) . w (n, k)^T + bias (n)). w is dense, zeros where pruned."""

    w: F32
    x: F32
    bias: F32 | None
    activation: str | None
    threads: int

    @property
    def m(self) -> int:
        return int(self.x.shape[0])

    def reference(self) -> NDArray[np.float64]:
        return reference.linear(self.x, self.w, self.bias, self.activation)


def dense_weight(layer: Layer) -> F32:
    rng = np.random.default_rng([layer.n, layer.k])
    return (rng.standard_normal((layer.n, layer.k), dtype=np.float32) / np.sqrt(layer.k)).astype(np.float32)


def inputs(layer: Layer, m: int) -> tuple[F32, F32]:
    """x (m, k) and bias (n)."""
    rng = np.random.default_rng([m, layer.k, 1])
    return rng.standard_normal((m, layer.k), dtype=np.float32), rng.standard_normal(layer.n, dtype=np.float32)


def prune(w: F32, sparsity: float, pattern: str) -> F32:
    """w with its smallest magnitudes set to zero.

    pattern: "unstructured" (one budget for the tensor), "4x4" (r x c blocks by their sum) or "2:4" (keep n of
    m in a row, which fixes the sparsity).
    """
    if ":" in pattern:
        keep, group = map(int, pattern.split(":"))
        scores = np.abs(w).reshape(-1, group)
        drop = np.argpartition(scores, group - keep - 1, axis=1)[:, : group - keep]
        out = w.reshape(-1, group).copy()
        np.put_along_axis(out, drop, 0.0, axis=1)
        return out.reshape(w.shape)
    rows, cols = (1, 1) if pattern == "unstructured" else map(int, pattern.split("x"))
    n, k = w.shape
    scores = np.abs(w).reshape(n // rows, rows, k // cols, cols).sum(axis=(1, 3))
    pruned = int(np.floor(sparsity * scores.size + 0.5))
    mask = np.ones(scores.size, bool)
    mask[np.argpartition(scores.ravel(), max(pruned - 1, 0))[:pruned]] = False
    return w * np.repeat(np.repeat(mask.reshape(scores.shape), rows, axis=0), cols, axis=1)


def pattern_sparsity(pattern: str) -> float | None:
    """The one sparsity of an N:M pattern; None for a pattern that takes any."""
    if ":" not in pattern:
        return None
    keep, group = map(int, pattern.split(":"))
    return 1.0 - keep / group


def relative_error(y: Any, reference: NDArray[np.float64]) -> float:
    """Largest error over the root mean square of the answer."""
    if y.shape != reference.shape:
        raise ValueError(f"answer: expected shape {reference.shape}, got {y.shape}")
    scale = float(np.sqrt(np.mean(reference**2))) or 1.0
    return float(np.max(np.abs(y.astype(np.float64) - reference), initial=0.0)) / scale
