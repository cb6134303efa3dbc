"""The pruning backend on a device: the masks of the CPU, bit for bit.

Every test runs on the kernels' model on the host, and once more on a GPU where there is one.
"""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DTYPES, KINDS, Place, make
from torch import Tensor

import prunus
from prunus import NM, Block, Unstructured

SPARSITIES = [0.0, 0.1, 0.5, 0.77, 1.0]
SCOPES = ["tensor", "row", "column"]


def check(place: Place, scores: Tensor, pattern: Any) -> None:
    expected, got = prunus.select(scores, pattern), place.select(scores, pattern)
    assert got.dtype == torch.bool
    assert got.shape == expected.shape
    assert torch.equal(got, expected), (pattern, tuple(scores.shape), scores.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_budget(place: Place, kind: str, dtype: torch.dtype) -> None:
    """Around the sizes of a warp, a block and a tile of 4096."""
    for size in (0, 1, 2, 31, 32, 33, 1023, 1024, 1025, 4095, 4096, 4097):
        for sparsity in SPARSITIES if size < 1000 else (0.0, 0.5, 0.9):
            check(place, make(kind, (size,), dtype), Unstructured(sparsity))
    check(place, make(kind, (20_011,), dtype), Unstructured(0.7))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["row", "column"])
def test_a_budget_for_every_line(place: Place, scope: Any, kind: str, dtype: torch.dtype) -> None:
    """Lines that are counted (up to 128 entries), and longer ones with each number of threads."""
    for shape in ((1, 1), (3, 31), (5, 32), (2, 33), (3, 128), (3, 129), (2, 1023), (2, 1025), (1, 8200)):
        scores = make(kind, shape if scope == "row" else shape[::-1], dtype)
        for sparsity in SPARSITIES if shape[1] < 129 else (0.0, 0.5, 1.0):
            check(place, scores, Unstructured(sparsity, scope))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties"])
def test_few_long_lines(place: Place, kind: str, dtype: torch.dtype) -> None:
    """Each is selected by the whole device."""
    scores = make(kind, (2, 70_001), dtype)
    check(place, scores, Unstructured(0.6, "row"))
    check(place, scores.t(), Unstructured(0.6, "column"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties", "edges"])
def test_nm(place: Place, kind: str, dtype: torch.dtype) -> None:
    groups = [
        (1, 2),
        (2, 4),
        (3, 4),
        (4, 8),
        (7, 16),
        (3, 5),
        (31, 32),
        (63, 64),
        (10, 65),
        (5, 128),
        (7, 129),
    ]
    for n, m in groups:
        for rows, across in ((1, 1), (3, 2), (2, 5)):
            check(place, make(kind, (rows, across * m), dtype), NM(n, m))
    check(place, make(kind, (33, 132), dtype), NM(2, 4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("turned", [False, True])
def test_blocks(place: Place, turned: bool, kind: str, dtype: torch.dtype) -> None:
    """Sums that depend on the order of additions, and blocks that the edge cuts off."""
    shapes = [(1, 1), (4, 4), (1, 4), (8, 8), (32, 1), (1, 8), (3, 5), (16, 16), (70, 2), (1, 300), (2, 9)]
    for shape, size in itertools.product(shapes, [(1, 1), (8, 8), (33, 41), (66, 100)]):
        scores = make(kind, size[::-1] if turned else size, dtype)
        scores = scores.t() if turned else scores
        for sparsity in (0.0, 0.5) if size != (66, 100) else (0.77,):
            check(place, scores, Block(shape, sparsity))


def test_sums_of_blocks_have_the_bits_of_the_cpu(place: Place) -> None:
    """Blocks whose sums differ in the last place only, or not at all, by the order of additions."""
    few = torch.tensor([1e16, 1.0, -1e16, 3.0, 0.1, 0.2, 0.3], dtype=torch.float64)
    scores = few[torch.randint(7, (64, 192), generator=torch.Generator().manual_seed(3))]
    for shape, sparsity in itertools.product([(4, 4), (2, 8), (8, 3), (1, 16), (64, 1)], [0.25, 0.5, 0.75]):
        check(place, scores, Block(shape, sparsity))
        check(place, scores.t(), Block(shape, sparsity))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(place: Place, dtype: torch.dtype) -> None:
    """Row-strided, transposed and expanded views, and memory that 16-byte loads cannot take."""
    base = make("ties", (40, 41), dtype)
    views = [base[:, :24], base[::3, 1:25], base.t()[:, :24], base[:24, 3:30].t(), base[:1, 1:25]]
    views += [base[:1].expand(7, 41)[:, :24], base.flatten()[1 : 24 * 9 + 1].view(9, 24)]
    patterns = [Unstructured(0.5), Unstructured(0.6, "row"), Unstructured(0.6, "column"), NM(2, 4), NM(5, 12)]
    for view, pattern in itertools.product(views, [*patterns, Block((2, 3), 0.5)]):
        check(place, view, pattern)
    check(place, make("ties", (4, 6, 10), dtype), Unstructured(0.3))
    check(place, make("ties", (301,), dtype)[::3], Unstructured(0.3))
    check(place, make("ties", (5000,), dtype)[1:], Unstructured(0.3))
    check(place, make("ties", (3, 301), dtype).flatten()[1:].view(2, -1), Unstructured(0.3, "row"))


def test_no_entries(place: Place) -> None:
    for shape in ((0,), (2, 0, 3), (0, 0)):
        check(place, torch.zeros(shape), Unstructured(0.5))
    patterns = [Unstructured(1, "row"), Unstructured(1, "column"), NM(2, 4), Block((4, 4), 1)]
    for shape, pattern in itertools.product([(0, 8), (8, 0), (0, 0)], patterns):
        check(place, torch.zeros(shape), pattern)


FLOATS = st.floats(width=32, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=60), st.floats(0, 1), st.sampled_from(SCOPES), st.integers(1, 6))
def test_any_floats(place: Place, values: list[float], sparsity: float, scope: Any, cols: int) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    scores = scores.view(-1, cols) if scores.numel() % cols == 0 else scores.view(1, -1)
    check(place, scores, Unstructured(sparsity, scope))


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_one_budget_over_many(place: Place, sparsity: float) -> None:
    """Of one dtype and of several; ties go from the end of the last array."""
    shapes = [(3, 1), (0,), (1030,), (65, 7), (2, 3, 4)]
    mixed = [
        make("ties", shape, dtype) for shape, dtype in zip(shapes, [*DTYPES, torch.float32], strict=True)
    ]
    halves = [
        make("ties", shape, dtype)
        for shape, dtype in zip(shapes, [*DTYPES[2:]] * 2 + DTYPES[2:3], strict=True)
    ]
    for dtype in DTYPES:
        same = [make("edges", shape, dtype, seed) for seed, shape in enumerate(shapes)]
        for all_scores in (same, mixed, halves, same[::-1], [mixed[3].t(), mixed[2]], []):
            got = (
                place.functions.select_global([place.to(s) for s in all_scores], sparsity)
                if all_scores
                else []
            )
            for mask, expected in zip(got, prunus.select_global(all_scores, sparsity), strict=True):
                assert torch.equal(mask.cpu(), expected)
