"""The naive reference of selection: a stable sort, in float64, one group after the other."""

import math

import ml_dtypes
import numpy as np
import pytest

from prunus import NM, Block, Unstructured

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


def lowest(rows, prune):
    """Keep flags of every row. Among equals the later goes first: stable in the reversed order."""
    order = np.argsort(rows[:, ::-1].astype(np.float64), axis=1, kind="stable")
    keep = np.ones(rows.shape, bool)
    np.put_along_axis(keep, rows.shape[1] - 1 - order[:, :prune], False, axis=1)
    return keep


def count(sparsity, n):
    return math.floor(sparsity * n + 0.5)


def block_scores(scores, shape):
    rows, cols = (-(-size // side) for size, side in zip(scores.shape, shape, strict=True))
    sums = np.zeros((rows, cols))
    for i in range(rows):
        for j in range(cols):
            block = scores[i * shape[0] : (i + 1) * shape[0], j * shape[1] : (j + 1) * shape[1]].astype(
                np.float64
            )
            sums[i, j] = block.sum() * (shape[0] / block.shape[0]) * (shape[1] / block.shape[1])
    return sums


def naive_select(scores, pattern):
    if isinstance(pattern, NM):
        return lowest(scores.reshape(-1, pattern.m), pattern.m - pattern.n).reshape(scores.shape)
    if isinstance(pattern, Block):
        sums = block_scores(scores, pattern.shape)
        keep = lowest(sums.reshape(1, -1), count(pattern.sparsity, sums.size)).reshape(sums.shape)
        whole = np.repeat(np.repeat(keep, pattern.shape[0], 0), pattern.shape[1], 1)
        return whole[: scores.shape[0], : scores.shape[1]]
    assert isinstance(pattern, Unstructured)
    if pattern.scope == "column":
        return naive_select(scores.T, Unstructured(pattern.sparsity, "row")).T
    rows = scores if pattern.scope == "row" else scores.reshape(1, -1)
    return lowest(rows, count(pattern.sparsity, rows.shape[1])).reshape(scores.shape)


@pytest.fixture(scope="session")
def naive():
    return naive_select


@pytest.fixture(params=DTYPES, ids=lambda d: np.dtype(d).name)
def dtype(request):
    return np.dtype(request.param)
