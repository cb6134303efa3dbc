"""Format dot: products of int8 and of bfloat16 against the same arithmetic in float64, for every isa."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prunus
from prunus import FormatError, _core

TOKENS = [0, 1, 2, 3, 5, 8, 17, 33, 64, 65, 130]
SHAPES = [(0, 5), (5, 0), (1, 1), (3, 2), (31, 63), (32, 64), (33, 65), (257, 130), (300, 515)]
BLOCKS = [(1, 4), (4, 4), (16, 4), (32, 4)]


def blocks(rng, n, k, shape, sparsity):
    """Whole numbers, zero in whole blocks."""
    r, c = shape
    kept = rng.random((-(-n // r), -(-k // c))) >= sparsity
    return rng.integers(-4, 5, (n, k)).astype(np.float32) * np.kron(kept, np.ones(shape))[:n, :k]


def quantised(x):
    """x as 8-bit integers, a scale and a zero point for every token, and back: what int8 dot multiplies."""
    x = x.astype(np.float32)
    low, high = np.minimum(x.min(axis=1, initial=0), 0), np.maximum(x.max(axis=1, initial=0), 0)
    scale = (high / np.float32(255) - low / np.float32(255)).astype(np.float32)[:, None]
    inverse = np.float32(1) / np.where(scale > 0, scale, np.float32(1))
    zero = np.rint(-low[:, None] * inverse)
    return ((np.clip(np.rint(x * inverse) + zero, 0, 255) - zero) * scale.astype(np.float64)).astype(
        np.float64
    )


def product(x, packed):
    """What dot answers for x, without bias."""
    seen = quantised(x) if packed.dtype == "int8" else x.astype(np.float64)
    return seen @ packed.to_dense().T.astype(np.float64)


def packed_dot(rng, n, k, shape=(4, 4), sparsity=0.6, dtype="int8"):
    return prunus.pack(blocks(rng, n, k, shape, sparsity).astype(np.float32), dtype=dtype, format="dot")


def whole(rng, *shape):
    return rng.integers(-3, 4, shape).astype(np.float32)


def close(y, expected):
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4 * max(1.0, np.abs(expected).max(initial=0)))


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_is_the_product_of_what_it_stores(rng, dot_isa, n, k, dtype):
    for shape, sparsity in [((1, 1), 0.0), *[(s, 0.6) for s in BLOCKS], ((1, 1), 0.9), ((1, 1), 1.0)]:
        p = packed_dot(rng, n, k, shape, sparsity, dtype)
        assert (p.format, p.dtype) == ("dot", dtype)
        bias = whole(rng, n)
        for m in TOKENS:
            x = whole(rng, m, k)
            close(prunus.linear(x, p), product(x, p))
            close(prunus.linear(x, p, bias), product(x, p) + bias)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("given_as", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_tokens_of_every_type_activations_and_residual(rng, dot_isa, dtype, given_as):
    p, bias = packed_dot(rng, 100, 130, dtype=dtype), whole(rng, 100)
    for m in (1, 4, 5, 70):
        x, residual = whole(rng, m, 130).astype(given_as), whole(rng, m, 100).astype(given_as)
        expected = np.maximum(product(x, p) + bias, 0) + residual.astype(np.float64)
        y = prunus.linear(x, p, bias, "relu", residual)
        assert y.dtype == given_as
        error = np.abs(y.astype(np.float64) - expected).max() / np.abs(expected).max()
        assert error < (1e-5 if given_as is np.float32 else 0.01)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_same_bits_for_any_thread_count_and_strides(rng, dot_isa, dtype):
    p = packed_dot(rng, 600, 96, dtype=dtype)
    x = rng.standard_normal((140, 192)).astype(np.float32)
    answers = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        answers += [prunus.linear(x[:, ::2].copy(), p), prunus.linear(x[:, ::2], p)]
    _core.set_num_threads(2)
    for y in answers[1:]:
        np.testing.assert_array_equal(y, answers[0])


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_gated_is_the_product_of_two(rng, dot_isa, dtype):
    gate, up = (packed_dot(rng, 70, 130, dtype=dtype) for _ in range(2))
    for m in (1, 9, 70):
        x = whole(rng, m, 130)
        expected = np.maximum(product(x, gate), 0) * product(x, up)
        close(prunus.gated(x, gate, up, activation="relu"), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_token_that_is_not_finite_is_its_own_trouble(rng, dot_isa, bad):
    p = packed_dot(rng, 40, 64)
    for m in (1, 3, 40):
        x = whole(rng, m, 64)
        clean = prunus.linear(x, p)
        x[m - 1, 7] = bad
        y = prunus.linear(x, p)
        assert np.isnan(y[m - 1]).all()
        np.testing.assert_array_equal(y[: m - 1], clean[: m - 1])


def test_zero_tokens_and_rows_and_a_range_far_from_one(rng, dot_isa):
    w = whole(rng, 40, 64)
    w[5] = 0
    p = prunus.pack(w, dtype="int8", format="dot")
    for m in (1, 20):
        x = whole(rng, m, 64)
        x[0] = 0
        y = prunus.linear(x, p)
        assert not y[0].any()
        assert not y[:, 5].any()
        for scale in (1e-30, 1e30):
            close(prunus.linear(x * np.float32(scale), p) / np.float32(scale), y)


@pytest.mark.parametrize("shape", BLOCKS)
def test_the_height_of_blocks_is_found(rng, shape):
    p = packed_dot(rng, 128, 256, shape, 0.8)
    assert p.sparsity > 0.7
    stored = p.nbytes - 64 - 4 * 128  # header and scales
    assert stored < 0.35 * 128 * 256 + 128 * 256 / 8


@pytest.mark.parametrize("rows", [1, 4, 16, 32])
@pytest.mark.parametrize("n", [1, 31, 70])
def test_the_height_of_blocks_may_be_asked_for(rng, dot_isa, n, rows):
    w = whole(rng, n, 40) * (rng.random((n, 40)) >= 0.8)
    tall = prunus.pack(w, dtype="bfloat16", format="dot", rows=rows)
    np.testing.assert_array_equal(tall.to_dense(), w)
    assert tall.nnz == np.count_nonzero(w)
    x = whole(rng, 9, 40)
    np.testing.assert_array_equal(prunus.linear(x, tall), x @ w.T)


def test_dense_is_the_case_of_no_zeros(rng):
    w = whole(rng, 64, 64) + 5
    p = prunus.pack(w, dtype="bfloat16", format="dot")
    np.testing.assert_array_equal(p.to_dense(), w)
    assert p.sparsity == 0.0


@given(
    st.integers(1, 70), st.integers(1, 200), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1)
)
def test_int8_is_near_the_float_product(n, k, m, sparsity, seed):
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal((n, k)) * (rng.random((n, k)) >= sparsity)).astype(np.float32)
    x = rng.standard_normal((m, k)).astype(np.float32)
    y = prunus.linear(x, prunus.pack(w, dtype="int8", format="dot"))
    # Half a step of each factor, in every product.
    step_x = (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0))[:, None] / 255
    step_w = np.abs(w).max(axis=1)[None] / 127
    bound = step_x / 2 * np.abs(w).sum(1)[None] + step_w / 2 * np.abs(x).sum(1)[:, None] + k * step_x * step_w
    assert (np.abs(y - x @ w.T) <= bound + 1e-5).all()


def test_says_what_it_takes(rng):
    w = whole(rng, 8, 8)
    with pytest.raises(ValueError, match="dtype: expected int8 or bfloat16 for format 'dot', got float32"):
        prunus.pack(w, format="dot")
    with pytest.raises(ValueError, match="w: expected at most 65535 columns for format 'dot', got 65536"):
        prunus.pack(np.ones((1, 65536), np.float32), dtype="int8", format="dot")
    for rows in (0, -1, 8, 2**31 - 1):
        with pytest.raises(ValueError, match=f"rows: expected 1, 4, 16 or 32, got {rows}"):
            prunus.pack(w, dtype="int8", format="dot", rows=rows)
    for format in ("auto", "col8"):
        with pytest.raises(ValueError, match="rows: expected none but for format 'dot', got 4"):
            prunus.pack(w, format=format, rows=4)
    w[0, 0] = np.inf
    with pytest.raises(ValueError, match="w: expected finite values for dtype int8"):
        prunus.pack(w, dtype="int8", format="dot")


def test_the_longest_row_does_not_overflow():
    w = np.full((1, 65535), 127, np.float32)
    x = np.full((20, 65535), 255, np.float32)
    p = prunus.pack(w, dtype="int8", format="dot")
    for m in (1, 20):
        np.testing.assert_allclose(prunus.linear(x[:m], p), np.full((m, 1), 255.0 * 127 * 65535), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_changed_bytes_are_refused_or_wrong_but_never_a_crash(rng, dtype):
    """Every byte of the payload, changed: validate refuses, or the change is another value."""
    p = packed_dot(rng, 37, 45, dtype=dtype)
    x = whole(rng, 20, 45)
    refused = 0
    for at in range(64, p.nbytes):
        bytes_ = p.buffer.copy()
        bytes_[at] ^= 0x41
        refused += is_refused(lambda b=bytes_: prunus.PackedWeight.from_buffer(b))
        for m in (1, 20):  # the doors that do not validate
            is_refused(lambda m=m, b=bytes_: _core.linear(x[:m], b))
    assert refused > 100


def is_refused(door):
    try:
        door()
    except FormatError:
        return True
    return False
