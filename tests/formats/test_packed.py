"""Packed weights, every format and value type: pack, unpack, and what a buffer from outside must survive."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prunus
from prunus import _core
from prunus.packed import DTYPES, FLOAT_FORMATS

# Around the group (8), the tile (256 rows; 96, 192 columns), and primes.
EXTENTS = [0, 1, 7, 8, 9, 13, 63, 64, 65, 97, 193, 257]


def weight(rng, n, k, sparsity):
    w = rng.standard_normal((n, k)).astype(np.float32)
    w[rng.random((n, k)) < sparsity] = 0
    return w


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("k", EXTENTS)
def test_round_trip(rng, fit, k, sparsity, format, threads):
    for n in EXTENTS:
        w = fit(weight(rng, n, k, sparsity), format)
        p = prunus.pack(w, format=format)
        assert p.format == format
        np.testing.assert_array_equal(p.to_dense(), w)
        assert p.shape == (n, k)
        assert p.nnz == np.count_nonzero(w)
        assert p.nbytes == p.buffer.nbytes
        prunus.PackedWeight.from_buffer(p.buffer)  # the checker accepts what the packer writes


def test_the_bytes_do_not_depend_on_the_thread_count(rng):
    w = weight(rng, 300, 500, 0.8)
    _core.set_num_threads(1)
    one = prunus.pack(w).buffer
    _core.set_num_threads(3)
    np.testing.assert_array_equal(prunus.pack(w).buffer, one)
    _core.set_num_threads(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_every_float_dtype_packs_to_float32(rng, dtype):
    w = weight(rng, 40, 100, 0.7).astype(dtype)
    np.testing.assert_array_equal(prunus.pack(w).to_dense(), w.astype(np.float32))


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_values_are_rounded_to_nearest(rng, fit, dtype, format, threads):
    w = fit(weight(rng, 70, 200, 0.7), format)
    p = prunus.pack(w, dtype=dtype, format=format)
    assert p.dtype == dtype
    assert prunus.PackedWeight.from_buffer(p.buffer).nnz == np.count_nonzero(w)
    if dtype == "int8":
        scale = np.abs(w).max(axis=1, keepdims=True) / np.float32(127)
        expected = np.rint(w / scale).astype(np.int8) * scale
    else:
        expected = w.astype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(p.to_dense(), expected)


def test_int8_refuses_what_it_cannot_scale():
    with pytest.raises(ValueError, match="w: expected finite values for dtype int8"):
        prunus.pack(np.array([[1, np.inf]], np.float32), dtype="int8")


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.7, 0.8, 0.95, 1.0])
def test_auto_takes_the_bitmap_as_long_as_the_isa_is_faster_with_it(rng, isa, sparsity):
    expected = "bitmap" if sparsity < (0.75 if isa == "avx512" else 0.67) else "col8"
    assert prunus.pack(weight(rng, 64, 640, sparsity)).format == expected


def test_mask_keeps_true(rng):
    w, mask = rng.standard_normal((30, 50)).astype(np.float32), rng.random((30, 50)) < 0.3
    np.testing.assert_array_equal(prunus.pack(w, mask).to_dense(), w * mask)


def test_strided_weights_and_masks(rng):
    big, mask = rng.standard_normal((60, 90)).astype(np.float32), rng.random((90, 60)) < 0.5
    for view, keep in [(big[::2, 5:40], mask.T[::2, 5:40]), (big.T, mask), (big[:, ::3], mask.T[:, ::3])]:
        np.testing.assert_array_equal(prunus.pack(view, keep).to_dense(), view * keep)


def test_subnormals_are_not_stored():
    w = np.array([[1e-40, -1e-40, 1.17549435e-38, 2.0]], dtype=np.float32)
    p = prunus.pack(w)
    assert p.nnz == 2
    np.testing.assert_array_equal(p.to_dense(), [[0, 0, np.float32(1.17549435e-38), 2]])


def test_nan_and_infinity_are_stored():
    w = np.array([[np.nan, 0, np.inf, -np.inf, -0.0]], dtype=np.float32)
    p = prunus.pack(w)
    assert p.nnz == 3
    np.testing.assert_array_equal(p.to_dense(), [[np.nan, 0, np.inf, -np.inf, 0]])


def test_bytes_per_nonzero_stay_close_to_five(rng):
    p = prunus.pack(weight(rng, 768, 768, 0.9))
    assert p.nbytes / p.nnz < 5.25  # 4 + 1, padding of the lock-step groups, row order
    half = prunus.pack(weight(rng, 768, 768, 0.5))
    assert half.nbytes / (768 * 768) < 2.2  # 4 / 2 + 1 / 8, tile offsets


def test_pickle_and_repr(rng):
    p = prunus.pack(weight(rng, 20, 30, 0.5))
    again = pickle.loads(pickle.dumps(p))
    np.testing.assert_array_equal(again.buffer, p.buffer)
    assert repr(p).startswith("PackedWeight(20x30, sparsity=0.")


def test_errors_say_argument_expected_got(rng):
    w = np.ones((2, 3), np.float32)
    for call, error, text in [
        (lambda: prunus.pack(w[0]), ValueError, r"w: expected 2 dimensions \(n, k\), got 1"),
        (lambda: prunus.pack(w.astype(int)), ValueError, "w: expected"),
        (lambda: prunus.pack(w, np.ones((3, 2), bool)), ValueError, "mask: expected the shape of w"),
        (lambda: prunus.pack(w, np.ones((2, 3))), ValueError, "mask: expected"),
        (lambda: prunus.pack(w, format="csr"), ValueError, "format: expected auto"),
        (lambda: prunus.pack(w, dtype="int4"), ValueError, "dtype: expected"),
    ]:
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize("cut", [0, 1, 63, 64, 72, 100, -1])
def test_truncated_buffers_are_refused(rng, fit, cut, format):
    buffer = prunus.pack(fit(weight(rng, 20, 30, 0.5), format), format=format).buffer
    with pytest.raises(prunus.FormatError, match="packed"):
        prunus.PackedWeight.from_buffer(buffer[:cut])


def test_a_newer_version_is_refused_with_a_sentence(rng):
    buffer = prunus.pack(weight(rng, 4, 4, 0.5)).buffer.copy()
    buffer[4] = 200
    with pytest.raises(prunus.FormatError, match=r"packed.version: expected at most .* \(update prunus"):
        prunus.PackedWeight.from_buffer(buffer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FLOAT_FORMATS)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
def test_one_changed_byte_is_refused_or_harmless(fit, at, value, format, dtype):
    w = fit(weight(np.random.default_rng(5), 37, 61, 0.8), format)
    buffer = prunus.pack(w, dtype=dtype, format=format).buffer.copy()
    buffer[at % buffer.size] = value
    try:
        p = prunus.PackedWeight.from_buffer(buffer)
    except prunus.FormatError:
        return
    # Accepted: then every index is in range, and only stored values can differ.
    assert p.to_dense().shape == (37, 61)
    assert prunus.linear(np.ones((3, 61), np.float32), p).shape == (3, 37)


@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_golden_buffer_of_version_1_is_still_read(format):
    """Written by prunus 0.1.0; every later version must read it. 3 x 5."""
    golden = bytes.fromhex(GOLDEN[format])
    p = prunus.PackedWeight.from_buffer(np.frombuffer(golden, np.uint8))
    assert p.format == format
    blocks = [[1, 2, 0, 0, 0], [3, 4, 0, 0, 0], [0, 0, 5, 6, 0]]
    others = [[1, 0, 0, 2, 0], [0, 0, 0, 0, 0], [0, 3, 0, 0, 4]]
    np.testing.assert_array_equal(p.to_dense(), blocks if format == "block" else others)


GOLDEN = {
    "col8": (
        "50524e5301010100030000000000000005000000000000000400000000000000b0000000000000000800050000000000"
        "00000000000000000000000030f0028b1000000000000000700000000000000000020103040506070200000000000000"
        "0000803f0000404000000000000000000000000000000000000000000000000000000040000080400000000000000000"
        "0000000000000000000000000000000000010505050505050304050505050505"
    ),
    "bitmap": (
        "50524e530102010003000000000000000500000000000000040000000000000098000000000000000800050000000000"
        "000000000000000000000000f57265c11000000000000000580000000000000009000000000000000000000000000000"
        "12000000000000000000803f000000400000404000008040000000000000000000000000000000000000000000000000"
        "0000000000000000"
    ),
    "nm": (
        "50524e5301030101030000000000000005000000000000000400000000000000a0000000000000000800100002001000"
        "000000000000000000000000e68bdf36100000000000000060000000000000000000803f000000000000404000000000"
        "000000000000000000000000000000000000004000000000000080400000000000000000000000000000000000000000"
        "00010000030400000000000000000000"
    ),
    "block": (
        "50524e5301040100030000000000000005000000000000000600000000000000a8000000000000000800060001000200"
        "000000000000000000000000d97e06e71000000000000000680000000000000000010203040506070100000000000000"
        "0000803f000040400000a040000000000000000000000000000000000000000000000040000080400000c04000000000"
        "000000000000000000000000000000000000020606060606"
    ),
}


@pytest.mark.parametrize("m", [1, 8, 64, 128, 200])
def test_two_threads_share_four_tiles_evenly(rng, threads, m):
    """Tiles of nearly equal cost: half of it lies between two, not where the next one happens to begin."""
    for _ in range(8):
        w = rng.standard_normal((768, 1024)).astype(np.float32) * (rng.random((768, 1024)) > 0.8)
        plan = prunus.pack(w).explain(m)
        assert plan["threads"] == threads
        assert plan["balance"] > (0.6 if threads == 3 else 0.9)


@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_explain_names_a_kernel_that_exists(rng, isa, threads, format):
    w = np.zeros((512, 96), np.float32)
    w[:, ::2] = rng.standard_normal((512, 48))  # 1:2, and blocks of any height
    p = prunus.pack(w, format=format)
    for m in (0, 1, 2, 5, 8, 17, 64, 65, 1000):
        plan = p.explain(m)
        assert plan["kernel"] in _core.kernels()
        assert plan["kernel"].startswith(format)
        assert plan["isa"] == isa
        assert plan["tokens"] * plan["passes"] >= m
        assert plan["tokens"] * (plan["passes"] - 1) < max(m, 1)
        assert 1 <= plan["threads"] <= threads
        assert 0 < plan["balance"] <= 1.0
        assert plan["threads"] > 1 or plan["balance"] == 1.0
    with pytest.raises(ValueError, match="m: expected a number of tokens >= 0, got -1"):
        p.explain(-1)
