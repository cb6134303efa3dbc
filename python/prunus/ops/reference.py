"""What the operators and the selection compute, as their definitions say it: dense, in float64, in numpy.

For tests, for reading, and where the kernels are in doubt. Nothing here is fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunus.patterns import NM, Block, Pattern, Unstructured

__all__ = ["ACTIVATIONS", "gated", "linear", "normalize", "select", "select_global"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_erf = np.vectorize(math.erf, otypes=[np.float64])

#: The activations of `prunus.linear`, on float64.
ACTIVATIONS: dict[str | None, Callable[[F64], F64]] = {
    None: lambda v: v,
    "relu": lambda v: np.maximum(v, 0.0),
    "gelu": lambda v: 0.5 * v * (1.0 + _erf(v / math.sqrt(2.0))),
    "gelu_tanh": lambda v: 0.5 * v * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (v + 0.044715 * v**3))),
    "silu": lambda v: v / (1.0 + np.exp(-v)),
}


def linear(
    x: NDArray[Any],
    w: NDArray[Any],
    bias: NDArray[Any] | None = None,
    activation: str | None = None,
    residual: NDArray[Any] | None = None,
) -> F64:
    """``activation(x @ w.T + bias) + residual`` for a dense w (n, k): what `prunus.linear` rounds at the end.

    x: (..., k). bias: (n,). residual: (..., n). Any float dtype. Returns float64 (..., n). A weight that is
    zero does not meet its input, so it spreads no NaN and no infinity of it.

    Raises KeyError for an unknown activation, ValueError when shapes do not fit together.

    >>> linear(np.array([[3.0, np.inf]]), np.array([[2.0, 0.0], [-1.0, 0.0]]), activation="relu")
    array([[6., 0.]])
    """
    wide, inputs = w.astype(np.float64), x.astype(np.float64)
    y = inputs @ wide.T if np.isfinite(inputs).all() else _only_nonzeros(inputs, wide)
    if bias is not None:
        y = y + bias.astype(np.float64)
    y = ACTIVATIONS[activation](y)
    return y if residual is None else y + residual.astype(np.float64)


def _only_nonzeros(x: F64, w: F64) -> F64:
    """x @ w.T, one token after the other, without the products whose weight is zero."""
    y = np.zeros((*x.shape[:-1], len(w)))
    for token in np.ndindex(x.shape[:-1]):
        y[token] = np.multiply(x[token], w, out=np.zeros_like(w), where=w != 0).sum(axis=1)
    return y


def gated(
    x: NDArray[Any],
    gate: NDArray[Any],
    up: NDArray[Any],
    gate_bias: NDArray[Any] | None = None,
    up_bias: NDArray[Any] | None = None,
    activation: str | None = "silu",
) -> F64:
    """``activation(x @ gate.T + gate_bias) * (x @ up.T + up_bias)`` for dense weights (n, k); float64.

    Raises as `linear` does.

    >>> gated(np.array([[2.0]]), np.array([[1.0]]), np.array([[3.0]]), activation=None)
    array([[12.]])
    """
    return linear(x, gate, gate_bias, activation) * linear(x, up, up_bias)


def normalize(w: NDArray[Any], axis: int) -> NDArray[np.longdouble]:
    """Every row (axis=1) or column (axis=0) of w (n, k) over its L2 norm, zeros stay; in long doubles.

    Raises numpy's AxisError for another axis.

    >>> normalize(np.array([[3.0, 4.0], [0.0, 0.0]]), axis=1).astype(float).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    wide = w.astype(np.longdouble)
    norm = np.sqrt((wide * wide).sum(axis, keepdims=True))
    unit: NDArray[np.longdouble] = np.divide(wide, norm, out=np.zeros_like(wide), where=norm != 0)
    return unit


def select(scores: NDArray[Any], pattern: Pattern) -> Mask:
    """The mask that `prunus.select` gives for scores without NaN: a stable sort in float64, group by group.

    Raises ValueError when the scores do not fit the pattern, or its scope is "model".

    >>> select(np.array([[1.0, 2.0, 2.0, 0.5]]), Unstructured(0.5))  # of equals the later goes
    array([[False,  True,  True, False]])
    """
    if isinstance(pattern, NM):
        return _keep(scores.reshape(-1, pattern.m), pattern.m - pattern.n).reshape(scores.shape)
    if isinstance(pattern, Block):
        return _select_blocks(scores, pattern)
    if pattern.scope == "model":
        raise ValueError("pattern: expected scope tensor, row or column, got model (see select_global)")
    if pattern.scope == "column":
        across: Mask = select(scores.T, Unstructured(pattern.sparsity, "row")).T
        return across
    groups = scores if pattern.scope == "row" else scores.reshape(1, -1)
    return _keep(groups, pruned_of(pattern.sparsity, groups.shape[1])).reshape(scores.shape)


def select_global(scores: Sequence[NDArray[Any]], sparsity: float) -> list[Mask]:
    """What `select` gives for all entries of all arrays as one, cut apart again.

    scores: the arrays. sparsity: share of zeros of all of them together.
    Raises ValueError when there are no arrays.

    >>> select_global([np.array([1.0, 4.0]), np.array([2.0, 3.0])], 0.5)
    [array([False,  True]), array([False,  True])]
    """
    whole = select(np.concatenate([s.astype(np.float64).ravel() for s in scores]), Unstructured(sparsity))
    parts = np.split(whole, np.cumsum([s.size for s in scores])[:-1])
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


def pruned_of(sparsity: float, size: int) -> int:
    """How many of a group of so many entries go.

    >>> pruned_of(0.5, 3)
    2
    """
    return math.floor(sparsity * size + 0.5)


def _keep(groups: NDArray[Any], prune: int) -> Mask:
    """Per row: the `prune` lowest go. Among equals the later goes first: stable in the reversed order."""
    order = np.argsort(groups[:, ::-1].astype(np.float64), axis=1, kind="stable")
    keep = np.ones(groups.shape, bool)
    np.put_along_axis(keep, groups.shape[1] - 1 - order[:, :prune], False, axis=1)
    return keep


def _select_blocks(scores: NDArray[Any], pattern: Block) -> Mask:
    """Blocks by the sum of their entries; one that the edge cuts off counts as if it were whole."""
    rows, cols = pattern.shape
    n, k = scores.shape
    sums = np.zeros((-(-n // rows), -(-k // cols)))
    for i, j in np.ndindex(sums.shape):
        block = scores[i * rows : (i + 1) * rows, j * cols : (j + 1) * cols].astype(np.float64)
        sums[i, j] = block.sum() * (rows / block.shape[0]) * (cols / block.shape[1])
    keep = _keep(sums.reshape(1, -1), pruned_of(pattern.sparsity, sums.size)).reshape(sums.shape)
    return np.repeat(np.repeat(keep, rows, axis=0), cols, axis=1)[:n, :k]
