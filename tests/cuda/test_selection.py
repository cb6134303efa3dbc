"""The pruning backend on a device: the masks of the CPU, bit for bit.

Every test runs on the kernels' model on the host, and once more on a GPU where there is one.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import prunus
from prunus import NM, Block, Unstructured
from prunus._tools.arrays import as_tensor_on
from prunus.masks import on_device, selection

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
KINDS = ["normal", "ties", "edges", "constant"]
SPARSITIES = [0.0, 0.1, 0.5, 0.77, 1.0]
SCOPES = ["tensor", "row", "column"]


@dataclass(frozen=True)
class Place:
    """Where the tensors are, and the functions that take them there."""

    device: str
    functions: Any

    def to(self, tensor: Tensor) -> Tensor:
        """The tensor there, with its strides."""
        if self.device == "cpu":
            return tensor
        there = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self.device)
        return there.copy_(tensor)

    def select(self, scores: Tensor, pattern: Any) -> Tensor:
        mask: Tensor = self.functions.select(self.to(scores), pattern)
        assert mask.device.type == self.device
        return mask.cpu()


@pytest.fixture(scope="module", params=["host", "cuda"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "host":
        request.getfixturevalue("host_library")
        return Place("cpu", on_device)
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return Place("cuda", prunus)


def make(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "normal":
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if kind == "ties":
        return torch.randint(-3, 4, shape, generator=generator).to(dtype)
    if kind == "constant":
        return torch.full(shape, 0.25, dtype=dtype)
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    edges = [0.0, -0.0, torch.inf, -torch.inf, smallest, -smallest, 1.0, torch.finfo(dtype).max]
    values = torch.tensor(edges, dtype=torch.float64).to(dtype)
    assert values[4] > 0  # a subnormal
    return values[torch.randint(len(edges), shape, generator=generator)]


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


def outcome(call: Any, *arguments: Any) -> tuple[str, str]:
    """The error, as kind and sentence."""
    try:
        call(*arguments)
    except (ValueError, TypeError) as error:
        return type(error).__name__, str(error)
    return "", ""


def with_nan(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    scores = torch.zeros(shape, dtype=dtype)
    scores.view(-1)[[shape[-1] + 3, scores.numel() - 2]] = torch.nan
    return scores


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_is_refused_in_the_same_sentence(place: Place, dtype: torch.dtype) -> None:
    scores, square = with_nan((20, 130), dtype), with_nan((130, 130), dtype)
    patterns = [
        Unstructured(0.5),
        Unstructured(0.0),
        Unstructured(1.0),
        NM(2, 10),
        NM(3, 130),
        Block((4, 4), 0.5),
    ]
    patterns += [Unstructured(s, scope) for s in (0.0, 0.5) for scope in ("row", "column")]
    for pattern in patterns:
        for view in (scores, square.t()):
            expected = outcome(prunus.select, view, pattern)
            assert "expected no NaN, got 2, the first at flat index" in expected[1]
            assert outcome(place.select, view, pattern) == expected
    both = [torch.zeros(3), scores]
    expected = outcome(prunus.select_global, both, 0.5)
    assert expected[1].startswith("scores[1]: expected no NaN")
    assert outcome(place.functions.select_global, [place.to(s) for s in both], 0.5) == expected
    assert place.select(torch.ones(3, dtype=dtype), Unstructured(0.0)).all()  # the next call starts afresh


def test_other_input_is_refused_in_the_same_sentence(place: Place) -> None:
    infinite = torch.zeros(4, 4)
    infinite[0, 0], infinite[0, 1] = torch.inf, -torch.inf
    bad = [
        (infinite, Block((2, 2), 0.5)),
        (torch.zeros(8, 12)[::2, ::2], Unstructured(0.5)),
        (torch.zeros(8, 12)[::2, ::2], NM(2, 3)),
        (torch.zeros(3, 4, 5).transpose(0, 2), Unstructured(0.5)),
        (torch.zeros(()), Unstructured(0.5)),
        (torch.zeros(8), Unstructured(0.5, "row")),
        (torch.zeros(2, 2, 4), NM(2, 4)),
        (torch.zeros(4, 30), NM(2, 4)),
        (torch.zeros(4, 4, dtype=torch.int64), Unstructured(0.5)),
        (torch.zeros(4, 4).to_sparse(), Unstructured(0.5)),
    ]
    for scores, pattern in bad:
        expected = outcome(prunus.select, scores, pattern)
        assert expected[0] == "ValueError"
        there = scores.to(place.device) if scores.is_sparse else place.to(scores)
        assert outcome(place.functions.select, there, pattern) == expected


def bits(tensor: Tensor) -> Tensor:
    """As integers, every NaN the same."""
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
    return torch.where(tensor.isnan(), torch.nan, tensor).view(word)


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


def test_normalize_refuses_in_the_same_sentence(place: Place) -> None:
    for w, axis in ((torch.zeros(3), 1), (torch.zeros(4, 4), 2), (torch.zeros(8, 8)[::2, ::2], 1)):
        expected = outcome(prunus.normalize, w, axis)
        assert expected[0] == "ValueError"
        assert outcome(place.functions.normalize, place.to(w), axis) == expected


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


def test_apply_mask_refuses_in_the_same_sentence(place: Place) -> None:
    keep = torch.zeros(4, 6, dtype=torch.bool)
    bad = [
        (torch.ones(4, 6), keep.t()),
        (torch.ones(4, 6), keep.float()),
        (torch.ones(4, 6, requires_grad=True), keep),
        (torch.ones(1, 6).expand(4, 6), keep),
        (torch.ones(8, 12)[::2, ::2], keep),
        (torch.ones(4, 6, dtype=torch.int32), keep),
        (torch.ones(2, 2, 6), torch.zeros(2, 2, 12, dtype=torch.bool)[:, :, ::2]),
    ]
    for w, mask in bad:
        expected = outcome(prunus.apply_mask_, w, mask)
        assert expected[0] == "ValueError"
        there = place.to(w.detach()).requires_grad_(w.requires_grad)
        assert outcome(place.functions.apply_mask_, there, place.to(mask)) == expected
        assert (w == 1).all()


def test_another_device_is_refused() -> None:
    sentence = "mask: expected a tensor on cuda:0, got device cpu"
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        as_tensor_on(torch.zeros(1), "mask", "cuda:0")
    with pytest.raises(ValueError, match=r"^w: expected a tensor on cuda:0, got a numpy array$"):
        as_tensor_on(torch.zeros(1).numpy(), "w", "cuda:0")


def test_the_door_sends_cuda_tensors_to_the_device(
    host_library: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every public function asks `is_cuda` first; here the answer is made up and the host computes."""
    called = []
    monkeypatch.setattr(selection, "is_cuda", lambda value: isinstance(value, Tensor))
    monkeypatch.setattr(selection, "open_library", called.append)
    scores = make("normal", (8, 8), torch.float32)
    assert prunus.select(scores, NM(2, 4)).sum() == 32
    assert [int(mask.sum()) for mask in prunus.select_global([scores, scores], 0.5)] == [32, 32]
    torch.testing.assert_close(prunus.normalize(scores, 1).norm(dim=1), torch.ones(8))
    assert prunus.apply_mask_(scores, torch.zeros(8, 8, dtype=torch.bool)) is scores
    assert (scores == 0).all()
    assert called == ["scores", "scores[0]", "w", "w"]
