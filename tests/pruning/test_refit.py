"""The best weights on a mask, in C++, against numpy's least squares on the kept columns."""

import os
import signal
import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from prunus import _core

rng = np.random.default_rng


def problem(n: int, k: int, sparsity: float, tokens: int = 600, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Correlated inputs x of length one a column (the diagonal of x'x is 1), weights, a mask."""
    r = rng(seed)
    rank = max(1, k // 4)
    x = r.normal(size=(tokens, rank)) @ r.normal(size=(rank, k)) / rank**0.5 + 0.3 * r.normal(
        size=(tokens, k)
    )
    x /= np.linalg.norm(x, axis=0)
    return x, r.normal(size=(n, k)), r.random((n, k)) >= sparsity


def solve(x: np.ndarray, w: np.ndarray, mask: np.ndarray, iterations: int = 100, tolerance: float = 1e-3):
    matrix = (x.T @ x).astype(np.float32)
    target, start = (w @ x.T @ x).astype(np.float32), (w * mask).astype(np.float32)
    return _core.refit(matrix, mask, target, start, iterations, tolerance)


def error(x: np.ndarray, w: np.ndarray, v: np.ndarray) -> float:
    return float(np.square((w - v) @ x.T).sum())


def exact(x: np.ndarray, w: np.ndarray, mask: np.ndarray) -> np.ndarray:
    v = np.zeros_like(w)
    for row, keep in enumerate(mask):
        v[row, keep] = np.linalg.lstsq(x[:, keep], x @ w[row], rcond=None)[0]
    return v


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 31), (5, 32), (4, 33), (7, 65), (9, 200), (2, 300)])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.97])
@pytest.mark.usefixtures("isa")
def test_within_a_thousandth_of_the_exact_solve(n: int, k: int, sparsity: float) -> None:
    x, w, mask = problem(n, k, sparsity)
    v, _ = solve(x, w, mask)
    assert not v[~mask].any()
    best, masked = error(x, w, exact(x, w, mask)), error(x, w, w * mask)
    assert error(x, w, v) <= 1.001 * best + 1e-10 * error(x, w, 0 * w)  # what float32 can
    assert sparsity not in (0.5, 0.8) or k < 30 or best < 0.9 * masked  # there was something to gain


def test_rows_of_every_length() -> None:
    x, w, _ = problem(34, 33, 0.0)
    mask = np.tri(34, 33, -1, dtype=bool)
    v, _ = solve(x, w, mask)
    assert not v[0].any()
    np.testing.assert_allclose(v[33], w[33], rtol=1e-4, atol=1e-5)  # all kept: nothing to do
    for row in range(1, 33):
        keep = mask[row : row + 1]
        mine, best = (
            error(x, w[row : row + 1], u) for u in (v[row : row + 1], exact(x, w[row : row + 1], keep))
        )
        assert mine <= 1.001 * best + 1e-9


@pytest.mark.usefixtures("isa")
def test_the_same_bits_for_every_thread_count(set_threads: Callable[[int], None]) -> None:
    x, w, mask = problem(50, 90, 0.7)
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(solve(x, w, mask)[0])
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_every_iteration_is_an_improvement() -> None:
    x, w, mask = problem(20, 120, 0.7)
    errors = [error(x, w, w * mask)]
    for iterations in range(1, 12):
        v, took = solve(x, w, mask, iterations, 0.0)
        assert took == iterations
        errors.append(error(x, w, v))
    assert all(b < a for a, b in pairwise(errors))


def test_another_target() -> None:
    """Outputs of another weight on other inputs, as recovery wants them."""
    x, w, mask = problem(6, 50, 0.6)
    teacher = rng(5).normal(size=(6, 50))
    y = (x + 0.1 * rng(6).normal(size=x.shape) / 25) @ teacher.T
    arrays = (x.T @ x, mask, y.T @ x, w * mask)
    v, _ = _core.refit(*(a if a.dtype == bool else a.astype(np.float32) for a in arrays), 200, 1e-4)
    for row, keep in enumerate(mask):
        best = np.linalg.lstsq(x[:, keep], y[:, row], rcond=None)[0]
        np.testing.assert_allclose(v[row, keep], best, rtol=2e-2, atol=2e-2)


def test_what_is_not_a_number_ends() -> None:
    x, _, mask = problem(4, 40, 0.5)
    matrix = (x.T @ x).astype(np.float32)
    matrix[3, 3] = np.nan
    v, took = _core.refit(matrix, mask, matrix[:4], np.zeros((4, 40), np.float32), 100, 1e-3)
    assert took <= 100
    assert v.shape == (4, 40)
    empty, took = _core.refit(matrix, mask[:0], matrix[:0], matrix[:0], 100, 1e-3)
    assert empty.shape == (0, 40)
    assert took == 0


def test_shapes_are_checked() -> None:
    x, w, mask = problem(4, 40, 0.5)
    m, t = (x.T @ x).astype(np.float32), w.astype(np.float32)
    with pytest.raises(ValueError, match=r"matrix: expected shape \(40, 40\), got \(39, 40\)"):
        _core.refit(m[:39], mask, t, t, 10, 1e-3)
    with pytest.raises(ValueError, match=r"mask: expected shape \(4, 40\), got \(3, 40\)"):
        _core.refit(m, mask[:3], t, t, 10, 1e-3)
    with pytest.raises(ValueError, match=r"target: expected shape \(4, 40\)"):
        _core.refit(m, mask, t[:2], t, 10, 1e-3)
    with pytest.raises(ValueError, match="start: expected 2 dimensions"):
        _core.refit(m, mask, t, t[0], 10, 1e-3)
    with pytest.raises(ValueError, match="mask: expected contiguous memory"):
        _core.refit(m, np.ones((4, 80), bool)[:, ::2], t, t, 10, 1e-3)


def test_ctrl_c_ends_it() -> None:
    x, w, mask = problem(20, 300, 0.2)
    many = [np.tile(a, (2000, 1)) for a in (w, mask)]  # half a minute, were it not ended
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            solve(x, *many, iterations=300, tolerance=0.0)
    finally:
        timer.join()
