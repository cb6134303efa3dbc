"""prunus.linear on numpy arrays against the naive reference, for every isa that this machine has."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prunus
from prunus import _core
from prunus.ops import reference
from prunus.ops.reference import ACTIVATIONS
from prunus.packed import DTYPES, FLOAT_FORMATS

# Token counts around the strips (1, 8, 64, 128); the last needs several of them.
TOKENS = [0, 1, 2, 7, 8, 9, 15, 33, 63, 64, 65, 127, 130, 200]


def layer(rng, n, k, sparsity):
    w = rng.standard_normal((n, k)).astype(np.float32)
    w[rng.random((n, k)) < sparsity] = 0
    return w, rng.standard_normal(n).astype(np.float32)


def close(y, expected, k):
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-6 * math.sqrt(k + 1))


@pytest.mark.parametrize(
    ("n", "k"),
    [(0, 5), (5, 0), (1, 1), (8, 96), (9, 97), (13, 7), (257, 193), (264, 192), (520, 31), (96, 384)],
)
@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_matches_dense(rng, fit, isa, threads, n, k, format):
    for sparsity in (0.0, 0.6, 0.95, 1.0):
        w, bias = layer(rng, n, k, sparsity)
        w = fit(w, format)
        p = prunus.pack(w, format=format)
        for m in TOKENS:
            x = rng.standard_normal((m, k)).astype(np.float32)
            expected = reference.linear(x, w)
            close(prunus.linear(x, p), expected, k)
            close(prunus.linear(x, p, bias), expected + bias, k)
    assert _core.active_isa() == isa


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_types_match_what_they_unpack_to(rng, fit, isa, dtype, format):
    w, bias = layer(rng, 150, 230, 0.7)
    w = fit(w, format)
    p = prunus.pack(w, dtype=dtype, format=format)
    stored = p.to_dense()
    for m in (1, 2, 5, 8, 11, 17, 31, 40, 48, 56, 64, 70):
        x = rng.standard_normal((m, 230)).astype(np.float32)
        close(prunus.linear(x, p, bias), reference.linear(x, stored, bias), 230)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activations(rng, isa, activation):
    w, bias = layer(rng, 37, 50, 0.7)
    p = prunus.pack(w)
    for m in (1, 5, 70):
        x = 3 * rng.standard_normal((m, 50)).astype(np.float32)
        expected = reference.linear(x, w, bias, activation)
        np.testing.assert_allclose(prunus.linear(x, p, bias, activation), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activation_accuracy_over_its_range(isa, activation):
    """The identity weight shows the activation alone: absolute error at fp32 scale, no overflow far out."""
    x = np.concatenate([np.linspace(-30, 30, 20011), [-1e30, -100, -88, 0, 88, 100, 1e30]]).astype(np.float32)
    p = prunus.pack(np.ones((1, 1), np.float32))
    y = prunus.linear(x[:, None], p, activation=activation)[:, 0]
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[activation](x.astype(np.float64))
    np.testing.assert_allclose(y, expected, rtol=5e-7, atol=4e-7)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_nan_survives_the_activation(isa, activation):
    p = prunus.pack(np.ones((9, 1), np.float32))
    for m in (1, 9):
        y = prunus.linear(np.full((m, 1), np.nan, np.float32), p, activation=activation)
        assert np.isnan(y).all()


@pytest.mark.parametrize("format", [f for f in FLOAT_FORMATS if f != "bitmap"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_has_the_same_bits_in_every_batch_and_thread_count(rng, fit, isa, dtype, format):
    w, bias = layer(rng, 300, 500, 0.85)
    p = prunus.pack(fit(w, format), format=format, dtype=dtype)
    x = rng.standard_normal((131, 500)).astype(np.float32)
    _core.set_num_threads(1)
    whole = prunus.linear(x, p, bias, "gelu")
    for m in (1, 2, 8, 40, 64, 100, 131):
        # Few tokens have several sums of a row: two steps of col8, columns of a block in turn.
        few = {"col8": 2 if isa == "avx512icl" else 0, "block": 4}.get(format, 0)
        _core.set_num_threads(1)
        expected = prunus.linear(x[:m], p, bias, "gelu") if m <= few else whole[:m]
        np.testing.assert_allclose(expected, whole[:m], rtol=1e-5, atol=1e-5)
        for count in (1, 2, 3):
            _core.set_num_threads(count)
            np.testing.assert_array_equal(prunus.linear(x[:m], p, bias, "gelu"), expected)
    _core.set_num_threads(0)


@pytest.mark.parametrize("m", [9, 64, 100, 200])
def test_many_threads_share_a_long_strip(rng, isa, set_threads, m):
    """More than two threads for each strip: packed once for all of them, else by each."""
    w, bias = layer(rng, 600, 2100, 0.9)
    p = prunus.pack(w)
    x = rng.standard_normal((m, 2100)).astype(np.float32)
    results = []
    for count in (1, 2, 5, 7):
        set_threads(count)
        assert p.explain(m)["threads"] == count
        results.append(prunus.linear(x, p, bias, "gelu"))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("m", [1, 2, 8, 16, 17, 64])
def test_bitmap_gives_the_same_bits_for_any_thread_count(rng, isa, m):
    w, bias = layer(rng, 600, 500, 0.5)
    p = prunus.pack(w, format="bitmap")
    x = rng.standard_normal((m, 500)).astype(np.float32)
    results = []
    for count in (1, 2, 3):
        _core.set_num_threads(count)
        results.append(prunus.linear(x, p, bias, "silu"))
    _core.set_num_threads(0)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_zeros_of_the_weight_do_not_spread_nan_or_infinity(isa, format, bad):
    """Different from dense, on purpose: 0 * NaN is skipped; a kept weight does spread it."""
    p = prunus.pack(np.array([[0, 1], [1, 0], [1, 1]], np.float32), format=format)
    for m in (1, 3, 8, 16, 30):
        y = prunus.linear(np.tile(np.array([bad, 2], np.float32), (m, 1)), p)
        np.testing.assert_array_equal(y, np.tile(np.array([2, bad, bad], np.float32), (m, 1)))


@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_subnormal_activations_count_as_zero(isa, format):
    """16e-39 is an ordinary float: only a machine that reads subnormals as zero gets nothing."""
    p = prunus.pack(np.full((8, 8), 2.0, np.float32), format=format)
    for m in (1, 8, 64):
        assert not prunus.linear(np.full((m, 8), 1e-39, np.float32), p).any()


def test_row_strides_of_x(rng, isa):
    w, _ = layer(rng, 20, 30, 0.5)
    p = prunus.pack(w)
    big = rng.standard_normal((50, 64)).astype(np.float32)
    for x in (big[:, 3:33], big[::2, :30], big[::-1, 10:40]):
        close(prunus.linear(x, p), x @ w.T, 30)


def test_many_tokens_need_several_chunks_of_panels(rng):
    w, _ = layer(rng, 8, 4096, 0.99)
    x = rng.standard_normal((1500, 4096)).astype(np.float32)
    close(prunus.linear(x, prunus.pack(w)), reference.linear(x, w), 4096)


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@given(
    m=st.integers(0, 70),
    n=st.integers(0, 40),
    k=st.integers(0, 300),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_property_integer_weights_are_exact(fit, m, n, k, sparsity, seed, format):
    rng = np.random.default_rng(seed)
    w = rng.integers(-4, 5, (n, k)).astype(np.float32) * (rng.random((n, k)) >= sparsity)
    w = fit(w, format)
    x = rng.integers(-4, 5, (m, k)).astype(np.float32)
    np.testing.assert_array_equal(prunus.linear(x, prunus.pack(w, format=format)), x @ w.T)


@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_integer_weights_are_exact_for_every_isa(rng, fit, isa, format):
    w = fit(rng.integers(-4, 5, (100, 400)).astype(np.float32) * (rng.random((100, 400)) < 0.3), format)
    for m in (1, 3, 24, 40, 48, 56, 64, 99):
        x = rng.integers(-4, 5, (m, 400)).astype(np.float32)
        np.testing.assert_array_equal(prunus.linear(x, prunus.pack(w, format=format)), x @ w.T)


def test_rows_of_very_different_length(rng, threads):
    """Global pruning leaves such rows: empty ones, full ones, and tiles that cost nothing."""
    w = rng.standard_normal((700, 300)).astype(np.float32)
    w[rng.random((700, 300)) < np.linspace(0, 1, 700)[:, None] ** 0.2] = 0
    w[:10], w[300:560] = 1, 0
    x = rng.standard_normal((66, 300)).astype(np.float32)
    close(prunus.linear(x, prunus.pack(w)), reference.linear(x, w), 300)


HALVES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_in_and_out(rng, isa, threads, kind, format):
    """The sums are those of float32: y is the float32 answer for the same x, rounded once."""
    w, bias = layer(rng, 77, 131, 0.7)
    p = prunus.pack(w, format=format)
    for m in (0, 1, 3, 8, 17, 65, 130):
        x = rng.standard_normal((m, 131)).astype(HALVES[kind])
        half_bias = bias.astype(x.dtype)
        for b in (None, bias, half_bias):
            y = prunus.linear(x, p, b, "silu")
            exact = prunus.linear(
                x.astype(np.float32), p, None if b is None else b.astype(np.float32), "silu"
            )
            assert y.dtype == x.dtype
            np.testing.assert_array_equal(y.view(np.uint16), exact.astype(x.dtype).view(np.uint16))


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_rounds_to_nearest_even(isa, kind):
    """Every exponent, ties, overflow, infinity and NaN; what float32 calls subnormal is flushed."""
    x = np.arange(0, 1 << 16, 7, dtype=np.uint16).view(HALVES[kind])
    with np.errstate(invalid="ignore"):
        x = x[~(np.abs(x.astype(np.float32)) < 2.0**-124)]
    p = prunus.pack(np.ones((1, 1), np.float32))
    np.testing.assert_array_equal(prunus.linear(x[:, None], p)[:, 0].astype(np.float32), x.astype(np.float32))
    third = prunus.pack(np.full((1, 1), 1 / 3, np.float32))
    exact = prunus.linear(x.astype(np.float32)[:, None], third)[:, 0]
    with np.errstate(over="ignore"):
        expected = exact.astype(x.dtype).astype(np.float32)
        np.testing.assert_array_equal(prunus.linear(x[:, None], third)[:, 0].astype(np.float32), expected)


def test_bias_of_another_half_is_refused(rng):
    p = prunus.pack(np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="bias: expected float32 or float16, got bfloat16"):
        prunus.linear(np.ones((1, 2), np.float16), p, np.ones(3, ml_dtypes.bfloat16))
    with pytest.raises(ValueError, match="bias: expected float32, got float16"):
        prunus.linear(np.ones((1, 2), np.float32), p, np.ones(3, np.float16))
