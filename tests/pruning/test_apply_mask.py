import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prunus import apply_mask_, select
from prunus.patterns import Unstructured

SHAPES = [(0,), (1,), (5,), (0, 3), (1, 1), (7, 13), (64, 64), (65, 129), (2, 9000), (3, 4, 5)]


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def check(w, mask):
    expected = np.where(mask, bits(w), 0)
    assert apply_mask_(w, mask) is w
    np.testing.assert_array_equal(bits(w), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_zeros_where_false_and_every_bit_where_true(shape, dtype, rng, threads):
    check(rng.standard_normal(shape).astype(dtype), rng.random(shape) < 0.5)


def test_any_value_becomes_plus_zero(dtype):
    w = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, -1.0, 2.0] * 2, dtype)
    check(w, np.arange(14) >= 7)


def test_layouts_of_both(dtype, rng):
    for _ in range(20):
        base = rng.standard_normal((150, 170)).astype(dtype)
        flags = rng.random((150, 170)) < 0.5
        for view in (lambda a: a, lambda a: a[:, 3:140], lambda a: a[::2, 5:], lambda a: a[::-1]):
            for turn in (lambda a: a, np.transpose):
                w = turn(view(base.copy()))
                for mask in (
                    turn(view(flags)),
                    np.ascontiguousarray(turn(view(flags))),
                    turn(view(flags))[::1, ::1],
                ):
                    check(w.copy("K"), mask)
                    check(w, mask)
        break


def test_strided_masks(rng):
    flags = rng.random((80, 300)) < 0.5
    check(rng.standard_normal((80, 100)).astype(np.float32), flags[:, ::3])
    check(rng.standard_normal((80, 150)).astype(np.float32), flags[:, ::-2])
    check(rng.standard_normal(100).astype(np.float32), flags[0, ::3])
    check(rng.standard_normal(200).astype(np.float32)[::2], flags[0, :100])
    check(rng.standard_normal((5, 100)).astype(np.float32), np.broadcast_to(flags[0, :100], (5, 100)))


def test_elements_around_a_view_are_untouched(rng):
    base = rng.standard_normal((20, 20)).astype(np.float32)
    before = base.copy()
    apply_mask_(base[3:9, 4:11], np.zeros((6, 7), bool))
    before[3:9, 4:11] = 0
    np.testing.assert_array_equal(base, before)


def test_unaligned_memory(dtype, rng):
    raw = np.zeros(1 + 100 * dtype.itemsize, np.uint8)
    w = raw[1:].view(dtype).reshape(10, 10)
    w[...] = rng.standard_normal((10, 10))
    mask = select(w, Unstructured(0.5))
    np.testing.assert_array_equal(mask, select(w.copy(), Unstructured(0.5)))
    check(w, mask)


@given(hnp.arrays(np.uint32, st.integers(0, 40)), st.data())
def test_any_bits(pattern, data):
    mask = data.draw(hnp.arrays(bool, pattern.shape))
    check(pattern.view(np.float32).copy(), mask)


def test_tensors_change_in_place(rng):
    for torch_dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        w = torch.from_numpy(rng.standard_normal((6, 8))).to(torch_dtype)
        mask = torch.from_numpy(rng.random((6, 8)) < 0.5)
        expected = torch.where(mask, w, torch.zeros((), dtype=torch_dtype))
        alias = w.view(-1)
        assert apply_mask_(w, mask) is w
        assert torch.equal(alias.view(6, 8), expected)
        assert torch.equal(apply_mask_(w.t(), mask.numpy().T), expected.t())
