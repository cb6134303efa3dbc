import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus import NM, Block, Unstructured, select

SHAPES = [(1, 1), (1, 7), (5, 1), (3, 8), (8, 16), (31, 37), (64, 65), (129, 127), (300, 1100)]
SPARSITIES = [0.0, 0.1, 0.5, 0.77, 1.0]
SCOPES = ["tensor", "row", "column"]


def make_scores(kind, shape, dtype, rng):
    if kind == "normal":
        return rng.standard_normal(shape).astype(dtype)
    if kind == "ties":
        return rng.integers(-3, 4, shape).astype(dtype)
    if kind == "sparse":
        return (rng.standard_normal(shape) * (rng.random(shape) < 0.3)).astype(dtype)
    if kind == "sorted":
        return np.linspace(-1, 1, np.prod(shape)).reshape(shape).astype(dtype)
    if kind == "edges":
        smallest = np.array(1, np.uint16 if dtype.itemsize == 2 else f"u{dtype.itemsize}").view(dtype)
        edges = [0.0, -0.0, np.inf, -np.inf, smallest, -smallest, 1.0]
        return rng.choice(np.array(edges, dtype), shape)
    assert kind == "constant"
    return np.full(shape, 0.25, dtype)


KINDS = ["normal", "ties", "sparse", "sorted", "edges", "constant"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", SCOPES)
def test_unstructured_equals_a_stable_sort(scope, kind, dtype, rng, naive):
    for shape, sparsity in itertools.product(SHAPES, SPARSITIES):
        scores = make_scores(kind, shape, dtype, rng)
        pattern = Unstructured(sparsity, scope)
        np.testing.assert_array_equal(select(scores, pattern), naive(scores, pattern), str((shape, sparsity)))


@pytest.mark.parametrize(
    ("n", "m"), [(2, 4), (1, 4), (1, 2), (4, 8), (3, 5), (7, 16), (63, 64), (10, 65), (100, 300)]
)
@pytest.mark.parametrize("kind", ["normal", "ties", "edges"])
def test_nm_equals_a_stable_sort(n, m, kind, dtype, rng, naive):
    for rows, groups in [(1, 1), (3, 2), (17, 5), (2, 130)]:
        scores = make_scores(kind, (rows, groups * m), dtype, rng)
        mask = select(scores, NM(n, m))
        np.testing.assert_array_equal(mask, naive(scores, NM(n, m)))
        assert (mask.reshape(-1, m).sum(1) == n).all()


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (1, 4), (32, 1), (3, 5), (1, 300)])
@pytest.mark.parametrize("kind", ["ties", "constant", "sorted"])
def test_blocks_equal_sums_and_a_stable_sort(shape, kind, dtype, rng, naive):
    """Integers, and eighths, so the float64 sums are exact in any order; shapes divide and do not."""
    for size, sparsity in itertools.product([(1, 1), (8, 8), (33, 41), (96, 100)], SPARSITIES):
        scores = np.round(make_scores(kind, size, dtype, rng).astype(np.float64) * 8).astype(dtype)
        pattern = Block(shape, sparsity)
        np.testing.assert_array_equal(select(scores, pattern), naive(scores, pattern), str((size, sparsity)))


def test_edge_blocks_count_as_whole_ones():
    scores = np.full((5, 5), 2.0, np.float32)
    scores[:4, :4] = 1.0
    mask = select(scores, Block((4, 4), 0.25))  # the first block has the largest sum and the lowest entries
    np.testing.assert_array_equal(mask, scores > 1)


@pytest.mark.parametrize(("shape", "size"), [((2, 2), (1030, 1030)), ((8, 4), (2104, 4000))])
@pytest.mark.parametrize("turn", [np.asarray, np.transpose], ids=["rows", "columns"])
def test_many_blocks_follow_their_sums(shape, size, turn, rng):
    """More blocks than are selected in one buffer: sums made anew at each read (2 x 2), and kept (8 x 4)."""
    scores = turn(rng.integers(0, 100, size).astype(np.float32))
    rows, cols = (length // side for length, side in zip(scores.shape, shape, strict=True))
    sums = scores.reshape(rows, shape[0], cols, shape[1]).astype(np.float64).sum((1, 3))
    expected = select(sums, Unstructured(0.7)).repeat(shape[0], 0).repeat(shape[1], 1)
    np.testing.assert_array_equal(select(scores, Block(shape, 0.7)), expected)


def test_large_tensors_at_every_thread_count(dtype, threads, rng, naive):
    """Large enough for the sampled bracket; ties across chunk borders."""
    for kind, sparsity in itertools.product(KINDS, [0.0, 0.003, 0.5, 0.9, 1.0]):
        scores = make_scores(kind, (613, 1021), dtype, rng)
        pattern = Unstructured(sparsity)
        np.testing.assert_array_equal(select(scores, pattern), naive(scores, pattern), f"{kind} {sparsity}")


@pytest.mark.parametrize(
    "pattern", [Unstructured(0.5), Unstructured(0.6, "row"), Unstructured(0.6, "column")], ids=str
)
@pytest.mark.parametrize("shape", [(3, 200_003), (200_003, 3)])
def test_long_lines(pattern, shape, dtype, rng, naive):
    for kind in ("normal", "ties"):
        scores = make_scores(kind, shape, dtype, rng)
        np.testing.assert_array_equal(select(scores, pattern), naive(scores, pattern))
        across = np.asfortranarray(scores)
        np.testing.assert_array_equal(select(across, pattern), naive(scores, pattern))


def test_a_sample_that_misleads_costs_time_not_exactness(naive):
    """Just the sampled positions are larger than the rest: every quantile that the sample sees is wrong."""

    def scramble(x):  # the positions that sample.cpp draws
        x = (x + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return x ^ (x >> 31)

    n, drawn = 1 << 20, 1 << 14
    jitter = np.array([scramble(i) >> 11 for i in range(drawn)], np.float64) * 2.0**-53
    positions = ((np.arange(drawn) + jitter) / drawn * n).astype(np.int64)
    scores = np.random.default_rng(1).random(n).astype(np.float32)
    scores[positions] += 2
    for values in (scores, scores.astype(np.float64), scores.astype(np.float16)):
        for sparsity in (0.2, 0.5, 0.98):
            pattern = Unstructured(sparsity)
            np.testing.assert_array_equal(select(values, pattern), naive(values, pattern))


@pytest.mark.parametrize("scope", SCOPES)
def test_masks_are_nested(scope, dtype, rng):
    scores = make_scores("ties", (37, 53), dtype, rng)
    masks = [select(scores, Unstructured(s, scope)) for s in np.linspace(0, 1, 23)]
    for looser, tighter in itertools.pairwise(masks):
        assert not (tighter & ~looser).any()


def test_an_already_pruned_tensor_keeps_its_zeros_first_to_go(rng):
    scores = np.abs(rng.standard_normal((64, 64))).astype(np.float32)
    first = select(scores, Unstructured(0.5))
    second = select(scores * first, Unstructured(0.75))
    np.testing.assert_array_equal(second, select(scores, Unstructured(0.75)))


@pytest.mark.parametrize(
    "pattern",
    [
        Unstructured(0.5),
        Unstructured(0.5, "row"),
        Unstructured(0.5, "column"),
        NM(2, 4),
        NM(10, 66),
        Block((2, 3), 0.5),
    ],
    ids=str,
)
def test_layouts(pattern, dtype, rng, naive):
    """Row-strided, transposed and reversed views give the mask of their contiguous copy."""
    base = rng.integers(-9, 9, (400, 4 * 66 + 5)).astype(dtype)
    views = [
        base[:, : 4 * 66],
        base[::3, 5:],
        base[::-1, : 2 * 66],
        base[: 2 * 66].T,
        base[: 2 * 66, 7:90].T,
        base[:1, : 2 * 66],
    ]
    for view in views:
        np.testing.assert_array_equal(select(view, pattern), naive(np.ascontiguousarray(view), pattern))


def test_other_ranks_in_tensor_scope(dtype, rng, naive):
    scores = rng.standard_normal((4, 6, 10)).astype(dtype)
    np.testing.assert_array_equal(select(scores, Unstructured(0.3)), naive(scores, Unstructured(0.3)))
    line = rng.standard_normal(301).astype(dtype)
    np.testing.assert_array_equal(select(line[::3], Unstructured(0.3)), naive(line[::3], Unstructured(0.3)))


MATRIX_PATTERNS = [Unstructured(1, "row"), Unstructured(1, "column"), NM(2, 4), Block((4, 4), 1)]
NO_ENTRIES = [
    *itertools.product([(0,), (2, 0, 3), (0, 0)], [Unstructured(0.5)]),
    *itertools.product([(0, 8), (8, 0), (0, 0)], MATRIX_PATTERNS),
]


@pytest.mark.parametrize(("shape", "pattern"), NO_ENTRIES, ids=str)
def test_no_entries(shape, pattern):
    mask = select(np.zeros(shape, np.float32), pattern)
    assert mask.shape == shape
    assert mask.dtype == bool


FLOATS = st.floats(width=32, allow_nan=False)


@given(st.lists(FLOATS, min_size=1, max_size=60), st.floats(0, 1), st.sampled_from(SCOPES), st.integers(1, 6))
def test_any_floats(naive, values, sparsity, scope, cols):
    scores = np.array(values, np.float32)
    scores = scores[: max(1, scores.size // cols) * cols]
    scores = scores.reshape(-1, cols) if scores.size % cols == 0 else scores.reshape(1, -1)
    pattern = Unstructured(sparsity, scope)
    np.testing.assert_array_equal(select(scores, pattern), naive(scores, pattern))
