"""Every isa gives the bits of the naive reference, and of every other isa."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus import NM, Block, Unstructured, _core, normalize, select

ISAS = list(_core.available_isas())
# Loops go 32 entries at a time, pieces of 1024 for normalise, and lines of 256 on are selected by counting.
WIDTHS = [1, 31, 32, 33, 257, 1024, 1100]


def scores_of(kind, shape, dtype, rng):
    if kind == "ties":
        return rng.integers(-3, 4, shape).astype(dtype)
    if kind == "sparse":  # most entries are one value, of either sign
        return (rng.standard_normal(shape) * (rng.random(shape) < 0.3)).astype(dtype)
    if kind == "huge range":
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape)).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("kind", ["normal", "ties", "sparse", "huge range"])
@pytest.mark.parametrize("scope", ["tensor", "row", "column"])
def test_masks_are_exact(kind, scope, dtype, isa, rng, naive):
    for width, sparsity in itertools.product(WIDTHS, [0.0, 0.003, 0.3, 0.5, 0.98]):
        scores = scores_of(kind, (6, width), dtype, rng)
        scores = scores.T if scope == "column" else scores
        pattern = Unstructured(sparsity, scope)
        np.testing.assert_array_equal(select(scores, pattern), naive(scores, pattern), f"{width} {sparsity}")


@pytest.mark.parametrize("kind", ["normal", "sparse", "ties"])
def test_one_pass_and_its_ends(kind, dtype, isa, rng, naive):
    """Large enough for the sampled bracket; cuts inside it, on its ends, and on entries pruned before."""
    scores = scores_of(kind, (523, 1021), dtype, rng)
    for sparsity in (0.1, 0.5, 0.7, 0.9):
        pattern = Unstructured(sparsity)
        np.testing.assert_array_equal(select(scores, pattern), naive(scores, pattern))
        np.testing.assert_array_equal(select(scores.T, pattern), naive(scores.T, pattern))


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 8), (9, 16), (3, 5), (63, 64)])
def test_groups(n, m, dtype, isa, rng, naive):
    for kind, groups in itertools.product(["normal", "ties"], [1, 63, 64, 65]):
        scores = scores_of(kind, (3, groups * m), dtype, rng)
        np.testing.assert_array_equal(select(scores, NM(n, m)), naive(scores, NM(n, m)))
        across = np.asfortranarray(scores)
        np.testing.assert_array_equal(select(across, NM(n, m)), naive(scores, NM(n, m)))


def test_blocks(dtype, isa, rng, naive):
    scores = rng.integers(-9, 9, (96, 100)).astype(dtype)
    np.testing.assert_array_equal(select(scores, Block((4, 4), 0.5)), naive(scores, Block((4, 4), 0.5)))


def of_every_isa(call):
    results = []
    for isa in ISAS:
        _core.set_isa(isa)
        results.append(call())
    _core.set_isa("auto")
    return results


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["normal", "sparse", "huge range"])
def test_normalise_gives_the_same_bits(kind, axis, dtype, rng):
    for width in WIDTHS:
        w = scores_of(kind, (11, width), dtype, rng)
        w.flat[0] = 0.0 if width % 2 else -np.inf
        first, *others = of_every_isa(lambda w=w: normalize(w, axis))
        numbers = ~np.isnan(first.astype(np.float64))
        for other in others:
            np.testing.assert_array_equal(np.isnan(other.astype(np.float64)), ~numbers)
            np.testing.assert_array_equal(other[numbers].view(np.uint8), first[numbers].view(np.uint8))


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_halves_are_rounded_alike(values):
    """Conversions by instruction and by arithmetic, subnormals and ties included."""
    for dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        w = np.array([values], np.float32).astype(dtype)
        first, *others = of_every_isa(lambda w=w: normalize(w, 1).view(np.uint16))
        for other in others:
            np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("where", [0, 31, 32, 40, 300])
def test_nan_is_found(where, dtype, isa):
    scores = np.ones((1, 301), dtype)
    scores[0, where] = np.nan
    for pattern in (Unstructured(0.5), Unstructured(0.5, "row"), NM(1, 7)):
        with pytest.raises(
            ValueError, match=f"scores: expected no NaN, got 1, the first at flat index {where}"
        ):
            select(scores, pattern)
