import itertools

import ml_dtypes
import numpy as np
import pytest
import torch

from prunus import Unstructured, select, select_global

SHAPES = [(37, 53), (1, 1), (0, 4), (64, 64), (129,), (2, 3, 5)]


def flat(masks):
    return np.concatenate([np.asarray(m).ravel() for m in masks])


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.93, 1.0])
def test_equals_one_concatenated_array(sparsity, dtype, rng, threads):
    for make in (rng.standard_normal, lambda shape: rng.integers(-2, 3, shape)):
        scores = [np.asarray(make(shape)).astype(dtype) for shape in SHAPES]
        masks = select_global(scores, sparsity)
        expected = select(np.concatenate([s.ravel() for s in scores]), Unstructured(sparsity))
        np.testing.assert_array_equal(flat(masks), expected)
        assert [m.shape for m in masks] == SHAPES


def test_large_and_transposed_parts_keep_the_callers_order(rng, naive):
    scores = [rng.integers(0, 50, shape).astype(np.float32) for shape in [(500, 700), (700, 300), (900, 40)]]
    scores[1] = np.asfortranarray(scores[1])
    scores[2] = scores[2].T
    for sparsity in (0.013, 0.31, 0.9):
        expected = naive(np.concatenate([s.ravel() for s in scores]), Unstructured(sparsity))
        np.testing.assert_array_equal(flat(select_global(scores, sparsity)), expected)


def test_mixed_dtypes_compare_by_value(rng, naive):
    dtypes = [np.float32, ml_dtypes.bfloat16, np.float16, np.float64]
    for chosen in itertools.chain(itertools.combinations(dtypes, 2), itertools.combinations(dtypes, 3)):
        scores = [rng.standard_normal((41, 23)).astype(d) for d in chosen]
        scores.append(rng.integers(-2, 3, (7, 9)).astype(chosen[0]))
        everything = np.concatenate([s.astype(np.float64).ravel() for s in scores])
        for sparsity in (0.1, 0.5, 0.9):
            expected = naive(everything, Unstructured(sparsity))
            np.testing.assert_array_equal(flat(select_global(scores, sparsity)), expected)


def test_kinds_come_back_as_they_came(rng):
    a = rng.standard_normal((5, 7)).astype(np.float32)
    masks = select_global([a, torch.from_numpy(a)], 0.5)
    assert isinstance(masks[0], np.ndarray)
    assert isinstance(masks[1], torch.Tensor)
    assert masks[1].dtype == torch.bool
    assert select_global([], 0.5) == []


def test_nothing_to_prune_in_empty_arrays():
    masks = select_global([np.zeros((0, 3), np.float32)], 0.5)
    assert masks[0].shape == (0, 3)


def test_refusals_name_the_array():
    good, bad = np.zeros(3, np.float32), np.array([0.0, np.nan], np.float64)
    with pytest.raises(ValueError, match=r"^scores\[1\]: expected no NaN, got 1, the first at flat index 1$"):
        select_global([good, bad], 0.5)
    with pytest.raises(ValueError, match=r"^scores\[1\]: expected float32, .*, got int64$"):
        select_global([good, np.arange(3)], 0.5)
    with pytest.raises(TypeError, match=r"^scores: expected a list of arrays, got ndarray$"):
        select_global(good, 0.5)
    with pytest.raises(ValueError, match=r"^sparsity: expected 0\.\.1, got 1\.5$"):
        select_global([good], 1.5)
