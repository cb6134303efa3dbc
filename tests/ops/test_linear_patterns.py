"""prunus.linear on N:M and block weights: every n:m and shape that has its own path through a kernel."""

import math

import numpy as np
import pytest

import prunus
from prunus import NM, Block
from prunus.ops import reference
from prunus.packed import DTYPES

TOKENS = [0, 1, 2, 3, 5, 8, 9, 24, 33, 70]
NMS = [(1, 2), (2, 3), (2, 4), (1, 4), (3, 5), (4, 8), (7, 9), (3, 16)]
BLOCKS = [(1, 2), (1, 4), (1, 16), (2, 1), (2, 4), (4, 1), (4, 4), (8, 1), (16, 1), (32, 1), (16, 16)]


def pruned(rng, n, k, pattern):
    whole = k + -k % pattern.m if isinstance(pattern, NM) else k  # select wants whole groups
    w = rng.standard_normal((n, whole)).astype(np.float32)
    return np.ascontiguousarray((w * prunus.select(np.abs(w), pattern))[:, :k])


def close(y, expected, k):
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-6 * math.sqrt(k + 1))


def check(rng, w, format, dtype="float32"):
    n, k = w.shape
    bias = rng.standard_normal(n).astype(np.float32)
    p = prunus.pack(w, dtype=dtype, format=format)
    stored = p.to_dense()
    for m in TOKENS:
        x = rng.standard_normal((m, k)).astype(np.float32)
        close(prunus.linear(x, p, bias), reference.linear(x, stored, bias), k)


@pytest.mark.parametrize("nm", NMS, ids=str)
def test_nm(rng, isa, nm):
    for n, k in [(1, 300), (77, 301), (300, 16), (43, 5)]:
        check(rng, pruned(rng, n, k, NM(*nm)), "nm")


@pytest.mark.parametrize("shape", BLOCKS, ids=str)
def test_block(rng, isa, shape):
    for n, k in [(32, 300), (77, 301), (300, 32)]:
        check(rng, pruned(rng, n, k, Block(shape, 0.7)), "block")


@pytest.mark.parametrize("dtype", DTYPES)
def test_value_types(rng, isa, dtype):
    for pattern in [NM(2, 4), NM(4, 8), NM(3, 16)]:
        check(rng, pruned(rng, 75, 230, pattern), "nm", dtype)
    for shape in [(1, 4), (2, 2), (4, 4), (16, 2), (32, 1)]:
        check(rng, pruned(rng, 75, 230, Block(shape, 0.6)), "block", dtype)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_holes_do_not_spread_nan_or_infinity(rng, isa, dtype, bad):
    """Zeros that are stored because their group or block is: the same answer as a format without them."""
    for pattern in [NM(2, 4), NM(4, 8), Block((4, 4), 0.5), Block((1, 4), 0.5), Block((16, 1), 0.5)]:
        w = np.rint(4 * pruned(rng, 50, 90, pattern))  # some kept weights become zero
        w[:, 7] = 0
        p = prunus.pack(w, dtype=dtype, format="nm" if isinstance(pattern, NM) else "block")
        reference = prunus.pack(w, dtype=dtype, format="col8")
        for m in (1, 3, 20, 70):
            x = rng.integers(-4, 5, (m, 90)).astype(np.float32)
            x[m // 2, 7] = bad
            y = prunus.linear(x, p)
            assert np.isfinite(y).all()
            close(y, prunus.linear(x, reference), 90)
            x[m // 2, 8] = bad
            np.testing.assert_array_equal(
                np.isfinite(prunus.linear(x, p)), np.isfinite(prunus.linear(x, reference))
            )


def test_the_rows_of_a_block_weight_match_those_of_col8_bit_for_bit(rng, isa):
    """One order of additions in every format whose kernels never add zeros."""
    for pattern, format in [(NM(2, 4), "nm"), (Block((4, 4), 0.8), "block"), (Block((32, 1), 0.8), "block")]:
        w = pruned(rng, 96, 200, pattern)
        one, other = prunus.pack(w, format=format), prunus.pack(w, format="col8")
        for m in (1, 4, 9, 64):
            x = rng.standard_normal((m, 200)).astype(np.float32)
            y, expected = prunus.linear(x, one), prunus.linear(x, other)
            several = m <= 4 if format == "block" else m == 1 and isa == "avx512icl"  # sums of a row
            if several:
                close(y, expected, 200)
            else:
                np.testing.assert_array_equal(y, expected)
