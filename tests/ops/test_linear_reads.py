"""The kernels read nothing behind a packed weight, and find columns right at every width."""

import ctypes
import mmap

import numpy as np
import pytest

import prunus
from prunus.ops import reference
from prunus.packed import DTYPES, FLOAT_FORMATS

PAGE = mmap.PAGESIZE


def before_an_unreadable_page(buffer):
    """A copy of `buffer` whose last byte is the last before a page that must not be touched."""
    size = (len(buffer) + PAGE - 1) // PAGE * PAGE
    memory = mmap.mmap(-1, size + PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    assert mprotect(ctypes.c_void_p(start + size), PAGE, 0) == 0  # PROT_NONE
    copy = np.frombuffer(memory, np.uint8, size)[size - len(buffer) :]
    copy[:] = buffer
    return copy


def integers(rng, n, k, sparsity):
    return np.where(rng.random((n, k)) < sparsity, 0, rng.integers(1, 5, (n, k))).astype(np.float32)


@pytest.mark.parametrize("format", FLOAT_FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_stay_inside_the_buffer(rng, fit, isa, dtype, format):
    for n, k in [(1, 1), (3, 5), (9, 65), (17, 130), (40, 200)]:
        for sparsity in (0.0, 0.5, 0.95):
            p = prunus.pack(fit(integers(rng, n, k, sparsity), format), dtype=dtype, format=format)
            guarded = prunus.PackedWeight.from_buffer(before_an_unreadable_page(p.buffer))
            assert (guarded.buffer.ctypes.data + len(guarded.buffer)) % PAGE == 0
            for m in (1, 2, 4, 8, 20, 64):
                x = rng.integers(-3, 4, (m, k)).astype(np.float32)
                np.testing.assert_array_equal(prunus.linear(x, guarded), prunus.linear(x, p))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_token_finds_its_activations_at_every_width(rng, isa, dtype):
    """col8 on avx512icl looks columns up in tables of 64, 128 and 192 entries, eight steps at a time."""
    for k in (1, 2, 63, 64, 65, 95, 96, 97, 127, 128, 129, 130, 191, 192, 193, 255, 256, 385, 600):
        for sparsity in (0.0, 0.5, 0.9, 0.97):
            w = integers(rng, 21, k, sparsity)
            w[0, -1] = 127  # an int8 scale of 1 in its row
            p = prunus.pack(w, dtype=dtype, format="col8")
            x = rng.integers(-3, 4, (1, k)).astype(np.float32)
            expected = reference.linear(x, p.to_dense())
            np.testing.assert_allclose(prunus.linear(x, p), expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_token_spreads_nan_only_from_kept_columns(rng, isa, dtype):
    for k in (1, 64, 129, 192, 200):
        w = integers(rng, 40, k, 0.8)
        p = prunus.pack(w, dtype=dtype, format="col8")
        for column in {0, k // 2, k - 1}:
            for bad in (np.nan, np.inf, -np.inf):
                x = rng.integers(1, 4, (1, k)).astype(np.float32)
                x[0, column] = bad
                np.testing.assert_array_equal(np.isfinite(prunus.linear(x, p))[0], w[:, column] == 0)
