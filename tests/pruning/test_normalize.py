import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prunus import _core, normalize
from prunus.ops import reference

SHAPES = [(0, 0), (0, 5), (5, 0), (1, 1), (1, 9), (9, 1), (7, 8), (33, 31), (300, 70), (3, 9000), (700, 1025)]
TOLERANCE = {"float64": 1e-15, "float32": 1.2e-7, "float16": 1e-3, "bfloat16": 8e-3}  # two roundings


def close(got, w, axis):
    expected, least = reference.normalize(w, axis), float(smallest(w.dtype))
    np.testing.assert_allclose(got.astype(np.longdouble), expected, rtol=TOLERANCE[w.dtype.name], atol=least)


def smallest(dtype):
    return np.array(1, f"u{dtype.itemsize}").view(dtype).astype(np.float64)


@pytest.mark.parametrize("axis", [0, 1])
def test_equals_the_definition(axis, dtype, rng):
    for shape in SHAPES:
        w = rng.standard_normal(shape).astype(dtype)
        got = normalize(w, axis)
        assert got.dtype == w.dtype
        assert got.shape == w.shape
        close(got, w, axis)


@pytest.mark.parametrize("axis", [0, 1])
def test_layouts(axis, dtype, rng):
    base = rng.standard_normal((60, 90)).astype(dtype)
    for view in (base[:, :50], base[::2], base[::-1, 3:], base.T, base[:, :7].T):
        close(normalize(view, axis), view, axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["large", "small", "mixed"])
def test_no_overflow_and_no_underflow(axis, kind, dtype, rng):
    info = np.finfo(dtype) if dtype.name != "bfloat16" else np.finfo(np.float32)
    w = (rng.random((40, 30)) + 0.1).astype(np.float64)
    if kind == "large":
        w *= float(info.max) / 2
    elif kind == "small":
        w *= float(smallest(dtype)) * 100
    else:
        w[:, ::2] *= float(info.max) / 2
        w[::3, 1::2] *= float(smallest(dtype)) * 100
    w = w.astype(dtype)
    got = normalize(w, axis)
    assert np.isfinite(got.astype(np.float64)).all()
    close(got, w, axis)


@pytest.mark.parametrize("axis", [0, 1])
def test_zero_lines_stay_zero(axis, dtype):
    w = np.ones((4, 4), dtype)
    w[2] = 0
    w[:, 1] = 0
    got = normalize(w, axis).astype(np.float64)
    np.testing.assert_array_equal(got == 0, w.astype(np.float64) == 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_nan_and_inf_stay_in_their_line(axis, dtype):
    w = np.ones((4, 4), dtype)
    w[0, 0], w[1, 1] = np.nan, np.inf
    got = normalize(w, axis).astype(np.float64)
    got = got if axis == 1 else got.T
    assert np.isnan(got[0]).all()
    np.testing.assert_array_equal(got[1], [0, np.nan, 0, 0])
    np.testing.assert_array_equal(got[2:], 0.5)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_same_bits_for_any_thread_count(axis, dtype, threads, rng):
    w = rng.standard_normal((777, 1300)).astype(dtype)
    before = normalize(w, axis)
    _core.set_num_threads(1)
    np.testing.assert_array_equal(before.view(np.uint8), normalize(w, axis).view(np.uint8))


@given(
    hnp.arrays(np.float32, (6, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.lists(st.integers(-20, 20), min_size=5, max_size=5),
)
def test_a_power_of_two_per_column_vanishes_from_columns_exactly(w, exponents):
    """The law behind scale-invariant scores: W diag(2^e) has bit for bit the same unit columns."""
    w = np.where(np.abs(w) < 1e-20, 0, w).astype(np.float32)
    scaled = w * np.exp2(np.array(exponents, np.float32))
    np.testing.assert_array_equal(normalize(w, 0), normalize(scaled, 0))
