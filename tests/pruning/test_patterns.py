import dataclasses

import numpy as np
import pytest

from prunus import NM, Block, Unstructured

PATTERNS = [
    Unstructured(0.5),
    Unstructured(0, "row"),
    Unstructured(np.float32(1)),
    NM(2, 4),
    Block((4, 1), 0.25),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_patterns_are_frozen_hashable_values(pattern):
    assert pattern == dataclasses.replace(pattern)
    assert len({pattern, dataclasses.replace(pattern)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        pattern.sparsity = 0.1


def test_sparsity_counts_zeros():
    assert [p.sparsity for p in PATTERNS] == [0.5, 0.0, 1.0, 0.5, 0.25]
    assert NM(1, 4).sparsity == 0.75


def test_numbers_become_plain_python():
    assert type(Unstructured(np.float64(0.5)).sparsity) is float
    assert type(NM(np.int64(2), np.int32(4)).n) is int
    assert Block([2, np.int64(3)], 1).shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Unstructured(1.5), ValueError, "sparsity: expected 0..1, got 1.5"),
        (lambda: Unstructured(-0.1), ValueError, "sparsity: expected 0..1, got -0.1"),
        (lambda: Unstructured(float("nan")), ValueError, "sparsity: expected 0..1, got nan"),
        (lambda: Unstructured("0.5"), TypeError, "sparsity: expected a number, got str"),
        (lambda: Unstructured(True), TypeError, "sparsity: expected a number, got bool"),
        (
            lambda: Unstructured(0.5, "rows"),
            ValueError,
            "scope: expected tensor, row, column, model, got 'rows'",
        ),
        (lambda: NM(4, 4), ValueError, "n: expected fewer than m = 4 kept entries, got 4"),
        (lambda: NM(0, 4), ValueError, "n: expected >= 1, got 0"),
        (lambda: NM(2.0, 4), TypeError, "n: expected an integer, got float"),
        (lambda: Block(4, 0.5), TypeError, "shape: expected two integers (rows, columns), got 4"),
        (lambda: Block((4, 0), 0.5), ValueError, "shape: expected >= 1, got 0"),
        (lambda: Block((4, 4), 2), ValueError, "sparsity: expected 0..1, got 2"),
    ],
)
def test_refusals(make, error, sentence):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == sentence
