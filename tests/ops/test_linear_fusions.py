"""Residual and gated products on numpy arrays against the naive reference, for every isa and thread count."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prunus
from prunus.ops import reference
from prunus.packed import DTYPES, FLOAT_FORMATS

TOKENS = [0, 1, 2, 3, 4, 5, 8, 9, 17, 64, 65, 130]


def whole(rng, *shape, least=-3, most=4):
    """Whole numbers: every sum is exact in float32 in any order."""
    return rng.integers(least, most, shape).astype(np.float32)


def pruned(rng, fit, n, k, sparsity, format):
    return fit(whole(rng, n, k) * (rng.random((n, k)) >= sparsity), format)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (0, 4), (4, 0), (9, 97), (16, 64), (257, 65), (300, 200)])
@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_residual_is_added_after_the_activation(rng, fit, isa, threads, n, k, format):
    w, bias = pruned(rng, fit, n, k, 0.6, format), whole(rng, n)
    p = prunus.pack(w, format=format)
    for m in TOKENS:
        x, residual = whole(rng, m, k), whole(rng, m, n)
        expected = reference.linear(x, w, bias, "relu", residual)
        np.testing.assert_array_equal(prunus.linear(x, p, bias, "relu", residual), expected)
        plain = reference.linear(x, w, residual=residual)
        np.testing.assert_array_equal(prunus.linear(x, p, residual=residual), plain)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (0, 4), (4, 0), (9, 97), (16, 64), (257, 65), (300, 200)])
@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_gated_is_the_product_of_two(rng, fit, isa, threads, n, k, format):
    gate, up = (pruned(rng, fit, n, k, 0.6, format) for _ in range(2))
    a, b = whole(rng, n), whole(rng, n)
    p, q = prunus.pack(gate, format=format), prunus.pack(up, format=format)
    for m in TOKENS:
        x = whole(rng, m, k)
        expected = reference.gated(x, gate, up, a, b, "relu")
        np.testing.assert_array_equal(prunus.gated(x, p, q, a, b, "relu"), expected)
        plain = reference.gated(x, gate, up, activation=None)
        np.testing.assert_array_equal(prunus.gated(x, p, q, activation=None), plain)


@pytest.mark.parametrize("formats", [("col8", "bitmap"), ("bitmap", "nm"), ("block", "col8")])
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "int8")])
def test_gated_of_two_kinds(rng, fit, isa, threads, formats, dtypes):
    weights = [pruned(rng, fit, 70, 130, 0.6, format) for format in formats]
    p, q = (prunus.pack(w, dtype=d, format=f) for w, d, f in zip(weights, dtypes, formats, strict=True))
    for m in (1, 3, 8, 70):
        x = rng.standard_normal((m, 130)).astype(np.float32)
        expected = prunus.linear(x, p, activation="silu") * prunus.linear(x, q)
        np.testing.assert_allclose(prunus.gated(x, p, q), expected, rtol=1e-5, atol=1e-4)


def test_gated_of_two_sparsities(rng, isa):
    """Tiles, and kernels for few tokens, follow the sparsity."""
    sparse, dense = (whole(rng, 90, 500) * (rng.random((90, 500)) >= s) for s in (0.95, 0.3))
    for first, second, format in ((sparse, dense, "col8"), (dense, sparse, "bitmap")):
        p, q = prunus.pack(first, format=format), prunus.pack(second, format=format)
        for m in (1, 2, 4, 6, 20):
            x = whole(rng, m, 500, least=-1, most=2)
            np.testing.assert_array_equal(
                prunus.gated(x, p, q, activation=None), (x @ first.T) * (x @ second.T)
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_activations(rng, fit, isa, dtype, kind):
    w = pruned(rng, fit, 40, 100, 0.8, "col8")
    p = prunus.pack(w, dtype=dtype)
    x, residual = (whole(rng, 9, d, least=-1, most=2).astype(kind) for d in (100, 40))
    exact = x.astype(np.float32) @ p.to_dense().T
    y = prunus.linear(x, p, residual=residual)
    assert y.dtype == kind
    gated = prunus.gated(x, p, p, activation=None)
    # int8 values times their scale are no whole numbers, so the order of a sum shows in its last bit.
    close = {"rtol": 2e-2, "atol": 1e-3} if dtype == "int8" else {"rtol": 0, "atol": 0}
    for got, expected in ((y, exact + residual.astype(np.float32)), (gated, exact * exact)):
        np.testing.assert_allclose(got.astype(np.float32), expected.astype(kind).astype(np.float32), **close)


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize("m", [1, 3, 9])
def test_pruned_zeros_do_not_spread_nan(rng, fit, isa, format, m):
    w = pruned(rng, fit, 20, 90, 0.6, format)
    w[:, :16] = 0
    p = prunus.pack(fit(w, format), format=format)
    x = whole(rng, m, 90)
    x[:, 3] = np.nan
    clean = np.where(np.isnan(x), 0, x)
    np.testing.assert_array_equal(
        prunus.gated(x, p, p, activation=None), prunus.gated(clean, p, p, activation=None)
    )


@given(st.data())
def test_any_strides_and_leading_dimensions(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    lead = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    w = whole(rng, 5, 7) * (rng.random((5, 7)) > 0.5)
    p = prunus.pack(w)
    x, residual = whole(rng, *lead, 14)[..., ::2], np.asfortranarray(whole(rng, *lead, 5))
    np.testing.assert_array_equal(prunus.linear(x, p, residual=residual), x @ w.T + residual)
    np.testing.assert_array_equal(prunus.gated(x, p, p, activation=None), (x @ w.T) ** 2)
