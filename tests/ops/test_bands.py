"""Weights larger than L2 and many tokens: strips go in bands, whose order must not show (ops/items.h)."""

import numpy as np
import pytest

import prunus

TOKENS = 233  # of strips from 16 to 64: whole bands, and a last strip that is narrow
N, K = 1100, 2052  # rows and columns that end within a tile, a group and a lane


def whole(rng, *shape):
    """Whole numbers: every sum is exact in float32 in any order."""
    return rng.integers(-3, 4, shape).astype(np.float32)


def pruned(rng, n, k):
    return whole(rng, n, k) * (rng.random((n, k)) >= 0.3)


@pytest.mark.parametrize("format", ["col8", "bitmap"])
def test_float32(rng, isa, threads, format):
    n, k = N // 2, K // 2
    w, other = pruned(rng, n, k), pruned(rng, n, k)
    gate, up = prunus.pack(w, format=format), prunus.pack(other, format=format)
    x, bias = whole(rng, TOKENS, k), whole(rng, n)
    np.testing.assert_array_equal(prunus.linear(x, gate, bias), x @ w.T + bias)
    product = np.maximum(x @ w.T, 0) * (x @ other.T)
    np.testing.assert_array_equal(prunus.gated(x, gate, up, activation="relu"), product)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_dot(rng, dot_isa, threads, dtype):
    p = prunus.pack(pruned(rng, N, K), np.ones((N, K), bool), dtype=dtype, format="dot")
    bias, x = whole(rng, N), rng.standard_normal((TOKENS, K)).astype(np.float32)
    if dtype == "bfloat16":
        x = np.round(x)  # sums are exact in any order
    alone = [prunus.linear(x[i : i + 16], p, bias) for i in range(0, TOKENS, 16)]
    np.testing.assert_array_equal(prunus.linear(x, p, bias), np.concatenate(alone))
