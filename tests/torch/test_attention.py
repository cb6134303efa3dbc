"""prunus::attention on every isa against the definition in float64, opcheck, what is refused, and NaN."""

import math
import re
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunus import _core
from prunus.ops.attention import attention, serves_attention
from prunus.ops.registered import attention_op

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# (texts, heads, heads of keys, queries, keys, dim): steps are of 16 queries and 32 keys, tiles of 32 dims.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 3, 15, 31, 31),
    (1, 4, 2, 16, 32, 32),
    (2, 2, 1, 17, 33, 33),
    (1, 6, 2, 67, 129, 16),
    (1, 1, 1, 40, 7, 96),
    (3, 2, 2, 5, 64, 127),
    (1, 12, 12, 128, 128, 64),
]


def with_attention() -> list[str]:
    """The isas that have a kernel of their own for it, and the one with the definition."""
    found = ["scalar"]
    for isa in _core.available_isas():
        _core.set_isa(isa)
        if _core.has_fast_attention():
            found.append(isa)
    _core.set_isa("auto")
    return found


ISAS = with_attention()


@pytest.fixture(params=ISAS)
def attention_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa("auto")


def three(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Query, key and value as a model has them: the heads of a token side by side."""
    texts, heads, kv_heads, queries, keys, dim = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(texts, queries, heads, dim), (texts, keys, kv_heads, dim), (texts, keys, kv_heads, dim)]
    return [torch.randn(size, generator=generator).to(dtype).transpose(1, 2) for size in sizes]


def defined(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    q, k, v = (t.double() for t in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    scores = q @ k.transpose(-2, -1) * scale
    hidden = torch.zeros(scores.shape, dtype=torch.bool)
    if causal:
        hidden |= torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    if mask is not None:
        scores = scores if mask.dtype == torch.bool else scores + mask.double()
        hidden |= ~mask if mask.dtype == torch.bool else (mask == -math.inf)
    weights = torch.softmax(scores.masked_fill(hidden, -math.inf), -1).nan_to_num(0.0)
    return (weights @ v).transpose(1, 2)


def allowed(dtype: torch.dtype) -> float:
    """Of the greatest answer: bfloat16 where tiles multiply or it is what comes out."""
    rounded = dtype is torch.bfloat16 or _core.has_fast_attention()
    return 2e-2 if rounded else 2e-3 if dtype is torch.float16 else 2e-5


def close(got: Tensor, expected: Tensor) -> bool:
    error = (got.double() - expected).abs().max()
    return bool(error <= allowed(got.dtype) * expected.abs().max())


def masks(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor | None]:
    texts, heads, _, queries, keys, _ = shape
    generator = torch.Generator().manual_seed(3)
    some = torch.rand(texts, 1, queries, keys, generator=generator) > 0.4
    some[:, :, :, 0] = True
    some[:, :, 0] = False  # a query that may look at no key
    added = torch.randn(1, heads, queries, keys, generator=generator)
    hiding = torch.zeros(texts, 1, 1, keys).masked_fill(torch.arange(keys) > keys // 2, -math.inf)
    return {
        "none": None,
        "bool": some,
        "of keys": torch.arange(keys)[None, None, None] <= keys // 2,
        "one for all keys": torch.ones(1, 1, queries, 1, dtype=torch.bool),
        "added": added.to(dtype),
        "hiding": hiding,
        "turned": some.transpose(2, 3).contiguous().transpose(2, 3),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_definition(attention_isa: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    q, k, v = three(shape, dtype)
    for mask in masks(shape, dtype).values():
        full = None if mask is None else mask.expand(shape[0], shape[1], shape[3], shape[4])
        assert close(attention(q, k, v, mask, 0.4), defined(q, k, v, full, 0.4, causal=False))
    assert close(attention(q, k, v, causal=True), defined(q, k, v, None, shape[-1] ** -0.5, causal=True))


@pytest.mark.parametrize(
    "sizes", [(0, 2, 2, 3, 3, 8), (2, 2, 2, 0, 3, 8), (2, 2, 2, 3, 0, 8), (1, 0, 0, 3, 3, 8)]
)
def test_nothing_to_do(attention_isa: str, sizes: tuple[int, ...]) -> None:
    texts, heads, _, queries, _, dim = sizes
    got = attention(*three(sizes, torch.float32))
    assert torch.equal(got, torch.zeros(texts, queries, heads, dim))


@given(
    shape=st.tuples(*(st.integers(1, most) for most in (2, 3, 50, 80, 40))),
    dtype=st.sampled_from(DTYPES),
    causal=st.booleans(),
    spread=st.sampled_from([1e-3, 1.0, 8.0]),
    isa=st.sampled_from(ISAS),
)
def test_any_shape(shape: tuple[int, ...], dtype: torch.dtype, causal: bool, spread: float, isa: str) -> None:
    texts, heads, queries, keys, dim = shape
    _core.set_isa(isa)
    try:
        q, k, v = three((texts, heads, heads, queries, keys, dim), dtype, seed=queries)
        # Rounded to bfloat16, scores of hundreds move by ones: queries that float32 keeps are given so.
        q = (q * spread).bfloat16().to(dtype)
        k, v = k.bfloat16().to(dtype), v.bfloat16().to(dtype)
        assert close(attention(q, k, v, None, 0.5, causal), defined(q, k, v, None, 0.5, causal))
    finally:
        _core.set_isa("auto")


def test_threads_and_layout_change_no_bit(attention_isa: str) -> None:
    q, k, v = three((1, 3, 3, 200, 90, 32), torch.bfloat16)
    mask = torch.rand(1, 1, 200, 90) > 0.3
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            answers += [attention(q, k, v, mask), attention(q.contiguous(), k.contiguous(), v, mask)]
            every_second = torch.stack([k, k], -1).flatten(-2)[..., ::2]
            answers.append(attention(q, every_second, v, mask))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(answer, answers[0]) for answer in answers)


@pytest.mark.parametrize("poison", [math.nan, math.inf, 3e38])
@pytest.mark.parametrize("which", range(3))
def test_what_is_no_number_stays_so(attention_isa: str, which: int, poison: float) -> None:
    """As in torch: where a query looks at it, and nowhere else."""
    tensors = three((1, 2, 2, 20, 40, 16), torch.float32)
    tensors[which][0, 1, 7, 3] = poison
    got, expected = attention(*tensors), F.scaled_dot_product_attention(*tensors).transpose(1, 2)
    if which == 0 and math.isnan(poison):
        expected[0, 7, 1] = math.nan  # torch answers zeros: its fused kernel takes the query for a hidden one
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isinf(), expected.isinf())
    assert torch.equal(got[:, :, 0], attention(*(t[:, :1] for t in tensors))[:, :, 0])


def test_hidden_keys_do_not_matter(attention_isa: str) -> None:
    q, k, v = three((1, 2, 2, 33, 70, 32), torch.float32)
    mask = (torch.arange(70) < 50)[None, None, None].expand(1, 1, 33, 70)
    expected = attention(q, k, v, mask)
    k[:, :, 50:], v[:, :, 50:] = 7.0, -3.0
    assert torch.equal(attention(q, k, v, mask), expected)


def test_an_infinite_mask(attention_isa: str) -> None:
    q, k, v = three((1, 1, 1, 5, 40, 16), torch.float32)
    for value in (math.nan, math.inf):
        mask = torch.zeros(1, 1, 5, 40)
        mask[0, 0, 2, 9] = value
        rows = attention(q, k, v, mask).isnan().all(-1)[0, :, 0]
        assert rows.tolist() == [False, False, True, False, False]


def test_opcheck(attention_isa: str) -> None:
    q, k, v = three((2, 4, 2, 5, 7, 16), torch.bfloat16)
    mask = torch.ones(2, 1, 5, 7, dtype=torch.bool)
    for given_mask, causal in ((None, True), (mask, False)):
        torch.library.opcheck(torch.ops.prunus.attention.default, (q, k, v, given_mask, 0.25, causal))


def test_autocast_and_compile() -> None:
    q, k, v = three((1, 2, 2, 5, 7, 16), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(q, k, v).dtype is torch.bfloat16
    compiled = torch.compile(lambda *t: attention(*t) + 1.0, backend="eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), attention(q, k, v) + 1.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda q, k, v: (q.double(), k, v), "query: expected float32, bfloat16 or float16, got float64"),
        (lambda q, k, v: (q, k.half(), v), "key: expected float32 as query, got float16"),
        (lambda q, k, v: (q, k, v.half()), "value: expected float32 as query, got float16"),
        (lambda q, k, v: (q[0], k, v), "query: expected (texts, heads, queries, dim), got (4, 5, 16)"),
        (lambda q, k, v: (q, k[..., :8], v), "key: expected (2, heads, keys, 16) as query, got (2, 2, 7, 8)"),
        (lambda q, k, v: (q, k, v[:, :, :6]), "value: expected (2, 2, 7, 16) as key, got (2, 2, 6, 16)"),
        (lambda q, k, v: (q[:, :3], k, v), "query: expected a multiple of the 2 heads of key, got 3"),
    ],
)
def test_what_does_not_fit(change, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        attention(*change(*three((2, 4, 2, 5, 7, 16), torch.float32)))


def test_masks_and_scales_that_do_not_fit() -> None:
    q, k, v = three((2, 4, 2, 5, 7, 16), torch.float32)
    sentence = re.escape("mask: expected (2, 4, 5, 7), of which the first three may be 1, got (2, 4, 5, 6)")
    with pytest.raises(ValueError, match=sentence):
        attention(q, k, v, torch.ones(2, 4, 5, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask: expected bool or float32, got float16"):
        attention(q, k, v, torch.ones(2, 4, 5, 7).half())
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="scale: expected a positive finite number, got"):
            attention(q, k, v, scale=scale)


def test_more_than_can_be_counted() -> None:
    few = torch.zeros(1, 1, 2, 8)
    for long in (few[:, :, :1].expand(1, 1, 2**26 + 1, 8), torch.zeros(1).expand(1, 1, 1, 2**16 + 1)):
        keys = few if long.shape[-1] == 8 else long
        with pytest.raises(ValueError, match=r"query: expected at most 2\^26 tokens and 2\^16 dimensions"):
            attention(long, keys, keys)


def test_no_gradient() -> None:
    q, k, v = three((1, 1, 1, 2, 2, 8), torch.float32)
    assert serves_attention(q, k, v) == _core.has_fast_attention()
    with pytest.raises(RuntimeError, match="query: expected a tensor without gradient"):
        attention(q.requires_grad_(), k, v)
    assert not serves_attention(q, k, v)
    with torch.no_grad():
        attention(q, k, v)


def test_freed_memory() -> None:
    q, k, v = three((1, 1, 1, 2, 2, 8), torch.float32)
    q.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="query: expected"):
        attention_op(q, k, v, None, 1.0, False)
