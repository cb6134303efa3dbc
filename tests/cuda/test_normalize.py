"""Norms and masks on a device: the bits of the CPU."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DTYPES, Place, bits, make
from torch import Tensor

import prunus


def check_normalize(place: Place, w: Tensor, axis: int) -> None:
    expected, got = prunus.normalize(w, axis), place.functions.normalize(place.to(w), axis).cpu()
    assert got.dtype == expected.dtype
    assert min(w.shape) < 2 or got.stride() == expected.stride()
    assert torch.equal(bits(got), bits(expected)), (tuple(w.shape), w.dtype, axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalize_gives_the_bits_of_the_cpu(place: Place, dtype: torch.dtype, axis: int) -> None:
    sizes = [
        (0, 5),
        (5, 0),
        (1, 1),
        (1, 9),
        (9, 1),
        (7, 8),
        (33, 31),
        (300, 70),
        (3, 1100),
        (263, 17),
        (517, 3),
    ]
    for shape in sizes:
        check_normalize(place, make("normal", shape, dtype), axis)
    base = make("normal", (60, 90), dtype)
    for view in (base[:, :50], base[::2], base[:, 3:], base.t(), base[:, :7].t(), base[:1].expand(5, 90)):
        check_normalize(place, view, axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalize_at_the_ends_of_the_range(place: Place, dtype: torch.dtype, axis: int) -> None:
    """Squares that leave float64's range, lines of zeros, NaN and infinities."""
    info = torch.finfo(dtype)
    w = make("normal", (24, 24), dtype).double()
    w[1] *= info.max / 8
    w[:, 2] *= info.max / 8
    w[3] *= info.smallest_normal * info.eps * 100
    w[:, 4] *= info.smallest_normal * info.eps * 100
    w[5], w[:, 6], w[7], w[8] = 0.0, -0.0, info.smallest_normal * info.eps, info.max
    check_normalize(place, w.clamp(-info.max, info.max).to(dtype), axis)
    w[9, 9], w[10, 11], w[12, 13], w[12, 14] = torch.nan, torch.inf, -torch.inf, torch.nan
    check_normalize(place, w.clamp(-info.max, info.max).where(w.isfinite(), w).to(dtype), axis)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=40), st.integers(1, 5), st.sampled_from([0, 1])
)
def test_normalize_any_floats(place: Place, values: list[float], cols: int, axis: int) -> None:
    w = torch.tensor(values, dtype=torch.float64)
    check_normalize(place, w.view(-1, cols) if len(w) % cols == 0 else w.view(1, -1), axis)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_apply_mask(place: Place, dtype: torch.dtype) -> None:
    """The kept entries keep every bit; a pruned NaN becomes +0.0; the memory between is left alone."""
    base = make("edges", (37, 1100), dtype)
    base[3, 7], base[4, 8], base[5, 9] = torch.nan, torch.nan, -0.0
    flags = make("normal", (37, 1100), torch.float32) > 0
    cuts = [lambda t: t, lambda t: t.t(), lambda t: t[:, :31], lambda t: t[::2, 1:], lambda t: t[:, :5].t()]
    cuts += [
        lambda t: t[3],
        lambda t: t[:, 3],
        lambda t: t.view(37, 11, 100),
        lambda t: t[:1],
        lambda t: t[:, :1],
        # By whole runs of 16 bytes: of one line, of rows, of more runs than a block takes in one turn.
        lambda t: t[:32],
        lambda t: t[::2, 16:1080],
        lambda t: t.view(-1)[16 : 16 + 40_000].view(5, 8000),
    ]
    for cut, turned in itertools.product(cuts, [False, True]):
        w, there = base.clone(), place.to(base.clone())
        mask = cut(flags)
        if turned and mask.dim() == 2:
            mask = mask.t().contiguous().t()
        prunus.apply_mask_(cut(w), mask)
        place.functions.apply_mask_(cut(there), place.to(mask))
        assert torch.equal(bits(there.cpu()), bits(w))
    place.functions.apply_mask_(place.to(torch.zeros(0, 4)), place.to(torch.zeros(0, 4, dtype=torch.bool)))
