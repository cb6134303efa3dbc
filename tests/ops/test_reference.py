"""The naive reference against figures worked out by hand: all else is compared with it."""

import numpy as np
import pytest

from prunus import NM, Block, Unstructured
from prunus.ops import reference
from prunus.ops.door import ACTIVATIONS

X = np.array([[1.0, -2.0, 3.0], [0.0, 1.0, 0.0]], np.float32)
W = np.array([[2.0, 0.0, 1.0], [0.0, -1.0, 0.0]], np.float32)


def test_linear() -> None:
    assert reference.linear(X, W).tolist() == [[5.0, 2.0], [0.0, -1.0]]
    bias, residual = np.array([1.0, -4.0]), np.full((2, 2), 10.0)
    assert reference.linear(X, W, bias, "relu", residual).tolist() == [[16.0, 10.0], [11.0, 10.0]]
    assert reference.linear(X[None], W).shape == (1, 2, 2)
    assert reference.linear(X[:0], W).shape == (0, 2)
    assert reference.linear(X, W).dtype == np.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_zero_does_not_meet_its_input(bad: float) -> None:
    x = X.copy()
    x[0, 1] = bad
    y = reference.linear(x, W)
    assert y[:, 0].tolist() == [5.0, 0.0]
    assert not np.isfinite(y[0, 1])
    np.testing.assert_array_equal(reference.linear(X, W), reference._only_nonzeros(X, W))


def test_activations_are_those_of_the_operator() -> None:
    assert set(reference.ACTIVATIONS) == set(ACTIVATIONS)
    at_one = {None: 1.0, "relu": 1.0, "gelu": 0.8413447, "gelu_tanh": 0.8411920, "silu": 0.7310586}
    for name, expected in at_one.items():
        assert reference.ACTIVATIONS[name](np.ones(1))[0] == pytest.approx(expected, abs=1e-7)
        assert reference.ACTIVATIONS[name](np.zeros(1))[0] == 0.0


def test_gated() -> None:
    assert reference.gated(X, W, W, activation="relu").tolist() == [[25.0, 4.0], [0.0, 0.0]]


def test_normalize() -> None:
    w = np.array([[3.0, 0.0], [4.0, 0.0]])
    assert reference.normalize(w, 0).astype(float).tolist() == [[0.6, 0.0], [0.8, 0.0]]
    assert reference.normalize(w, 1).astype(float).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def kept(pattern: object, scores: list[list[float]]) -> list[list[int]]:
    return reference.select(np.array(scores), pattern).astype(int).tolist()  # type: ignore[arg-type]


def test_select() -> None:
    scores = [[1.0, 5.0, 2.0, 2.0], [9.0, 0.0, 7.0, 1.0]]
    assert kept(Unstructured(0.5), scores) == [[0, 1, 1, 0], [1, 0, 1, 0]]
    assert kept(Unstructured(0.25, "row"), scores) == [[0, 1, 1, 1], [1, 0, 1, 1]]
    assert kept(Unstructured(0.5, "column"), scores) == [[0, 1, 0, 1], [1, 0, 1, 0]]
    assert kept(NM(1, 2), scores) == [[0, 1, 1, 0], [1, 0, 1, 0]]
    assert kept(Block((2, 2), 0.5), scores) == [[1, 1, 0, 0], [1, 1, 0, 0]]
    # The last block is half as wide: its sum counts twice.
    assert kept(Block((1, 2), 0.5), [[1.0, 1.0, 1.5]]) == [[0, 0, 1]]
    with pytest.raises(ValueError, match="select_global"):
        kept(Unstructured(0.5, "model"), scores)


def test_select_global() -> None:
    masks = reference.select_global([np.array([[4.0, 1.0]]), np.array([3.0, 2.0])], 0.5)
    assert [mask.tolist() for mask in masks] == [[[True, False]], [True, False]]
