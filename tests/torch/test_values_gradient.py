"""The ops of training on the packed weight: the gradient of what is kept, and new values in old places."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prunus
from prunus import NM, Block, _core
from prunus.ops.torch_ops import buffer_tensor
from prunus.ops.training import LEAST_VALUE, value_index, values_of, with_values

GRADIENT = torch.ops.prunus.values_gradient
WITH_VALUES = torch.ops.prunus.with_values
FORMATS = ("col8", "bitmap", "nm", "block")
# Tokens that a pass of some isa takes: 64 or 128. Columns of a tile: 128.
TOKENS = (0, 1, 7, 63, 64, 65, 127, 128, 129, 300)
SHAPES = ((1, 1), (2, 127), (3, 128), (5, 129), (13, 31), (67, 257), (130, 300))


def whole(*shape: int, seed: int = 0) -> torch.Tensor:
    """Small whole numbers: sums of their products are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).float()


def mask_of(n: int, k: int, sparsity: float) -> torch.Tensor:
    return torch.rand(n, k, generator=torch.Generator().manual_seed(n + k)) >= sparsity


def packed_of(mask: torch.Tensor, format: str = "col8") -> torch.Tensor:
    return buffer_tensor(prunus.pack(mask.float(), format=format))


def gradient(grad: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    index = value_index(packed_of(mask))
    return GRADIENT(grad, x, index.first, index.columns)


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.usefixtures("isa")
def test_equals_the_dense_gradient_where_weights_are_kept(n: int, k: int, sparsity: float) -> None:
    mask = mask_of(n, k, sparsity)
    for m in TOKENS:
        grad, x = whole(m, n, seed=1), whole(m, k, seed=2)
        assert torch.equal(gradient(grad, x, mask), (grad.T @ x)[mask])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("isa")
def test_half_tokens_are_summed_in_float32(dtype: torch.dtype) -> None:
    mask, grad, x = mask_of(70, 130, 0.8), whole(333, 70, seed=1), whole(333, 130, seed=2)
    found = gradient(grad.to(dtype), x.to(dtype), mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, (grad.T @ x)[mask])


@given(st.integers(0, 150), st.integers(1, 90), st.integers(1, 200), st.floats(0, 1), st.integers(0, 2**31))
def test_any_shape(m: int, n: int, k: int, sparsity: float, seed: int) -> None:
    mask = torch.rand(n, k, generator=torch.Generator().manual_seed(seed)) >= sparsity
    grad, x = whole(m, n, seed=seed), whole(m, k, seed=seed + 1)
    assert torch.equal(gradient(grad, x, mask), (grad.T @ x)[mask])


def test_leading_dimensions_and_strides() -> None:
    mask = mask_of(20, 30, 0.5)
    grad, x = whole(3, 4, 20, seed=1), whole(3, 4, 30, seed=2)
    expected = gradient(grad, x, mask)
    assert torch.equal(expected, torch.einsum("abn,abk->nk", grad, x)[mask])
    wide = torch.zeros(3, 4, 64)
    wide[..., :30] = x
    turned = grad.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(gradient(turned, wide[..., :30], mask), expected)
    one = gradient(grad[0, 0], x[0, 0], mask)
    assert torch.equal(one, torch.outer(grad[0, 0], x[0, 0])[mask])


def test_the_same_bits_for_any_thread_count(set_threads: Callable[[int], None]) -> None:
    mask, generator = mask_of(300, 500, 0.8), torch.Generator().manual_seed(0)
    mask[:200, 100:] = False  # rows of very different lengths
    grad, x = (torch.randn(700, size, generator=generator) for size in (300, 500))
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(gradient(grad, x, mask))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    exact = (grad.double().T @ x.double())[mask]
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-4, atol=1e-3)


def test_more_tokens_than_panels_are_held_for() -> None:
    m, n, k = 9000, 3, 700  # 25 MB of panels
    mask, grad, x = mask_of(n, k, 0.5), whole(m, n, seed=1), whole(m, k, seed=2)
    assert torch.equal(gradient(grad, x, mask), (grad.T @ x)[mask])


def test_what_is_not_finite_reaches_its_row_and_column_only() -> None:
    mask, grad, x = mask_of(9, 70, 0.5), whole(5, 9, seed=1), whole(5, 70, seed=2)
    x[2, 3] = float("nan")
    expected = grad.T @ x
    found = torch.zeros(9, 70)
    found[mask] = gradient(grad, x, mask)
    assert torch.equal(found.isnan(), expected.isnan() & mask)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("keep", [NM(2, 4), NM(1, 3), Block((4, 2), 0.5), Block((16, 1), 0.7)], ids=str)
def test_values_and_their_places(format: str, keep: NM | Block) -> None:
    """Whatever pattern and format: new values in the places are what packing them gives."""
    n, k = 96, 120
    mask = prunus.select(torch.rand(n, k, generator=torch.Generator().manual_seed(1)), keep)
    generator = torch.Generator().manual_seed(2)
    old, new = (torch.randn(n, k, generator=generator) * mask for _ in range(2))
    try:
        packed = prunus.pack(old, format=format)
    except ValueError:
        pytest.skip("this format does not hold this pattern")
    assert torch.equal(values_of(packed), old[mask])
    index = value_index(buffer_tensor(packed))
    written = with_values(buffer_tensor(packed), new[mask], index.places)
    assert torch.equal(written, buffer_tensor(prunus.pack(new, format=format)))
    turned = with_values(index.turned, new[mask], index.turned_places)
    assert torch.equal(torch.from_numpy(prunus.PackedWeight.from_buffer(turned.numpy()).to_dense()), new.T)
    grad, x = whole(66, n, seed=3), whole(66, k, seed=4)
    assert torch.equal(GRADIENT(grad, x, index.first, index.columns), (grad.T @ x)[mask])


@pytest.mark.parametrize("format", FORMATS)
def test_a_kept_zero_stays_kept(format: str) -> None:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, ::4] = True
    packed = packed_of(mask, format)
    values = torch.arange(mask.sum()).float()
    values[3] = 1e-40
    written = with_values(packed, values, value_index(packed).places)
    again = prunus.PackedWeight.from_buffer(written.numpy())
    values[[0, 3]] = LEAST_VALUE
    assert torch.equal(values_of(again), values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_values_are_widened(dtype: torch.dtype) -> None:
    packed = packed_of(mask_of(20, 30, 0.5))
    index = value_index(packed)
    values = torch.randn(len(index.columns), generator=torch.Generator().manual_seed(0)).to(dtype)
    written = with_values(packed, values, index.places)
    assert torch.equal(values_of(prunus.PackedWeight.from_buffer(written.numpy())), values.float())


def test_what_cannot_be_trained_is_refused() -> None:
    w = mask_of(32, 32, 0.5).float()
    for dtype, format in (("bfloat16", "col8"), ("int8", "bitmap"), ("bfloat16", "dot")):
        packed = buffer_tensor(prunus.pack(w, dtype=dtype, format=format))
        with pytest.raises(ValueError, match=f"packed: expected float32 values to train on, got {dtype}"):
            value_index(packed)


def test_wrong_operands_are_named() -> None:
    packed = packed_of(mask_of(6, 200, 0.5))
    index = value_index(packed)
    nnz = len(index.columns)
    values, grad, x = torch.ones(nnz), torch.ones(4, 6), torch.ones(4, 200)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: with_values(packed, values[1:], index.places), rf"values: expected \({nnz},\)"),
        (lambda: with_values(packed, values, index.places[1:]), rf"places: expected \({nnz},\)"),
        (lambda: with_values(packed, values.double(), index.places), "values: expected float32, bfloat16 or"),
        (lambda: with_values(packed, values, index.places.long()), "places: expected int32, got int64"),
        (lambda: with_values(packed, values, index.places * 1000), "places: expected those of the packed"),
        (lambda: with_values(packed, values, index.places * 0), "places: expected those of the packed"),
        (lambda: with_values(index.columns, values, index.places), "packed.size|magic"),
        (
            lambda: GRADIENT(grad.double(), x.double(), *index[:2]),
            "grad: expected float32, bfloat16 or float",
        ),
        (lambda: GRADIENT(grad, x.half(), *index[:2]), "x: expected float32 as grad, got float16"),
        (lambda: GRADIENT(grad, x[1:], *index[:2]), r"x: expected the leading dimensions of grad \(4, 6\)"),
        (lambda: GRADIENT(grad, x[:, :64], *index[:2]), r"first: expected \(7,\), got \(13,\)"),
        (lambda: GRADIENT(grad, x, index.first, index.columns[1:]), "first: expected numbers that ascend"),
        (lambda: GRADIENT(grad, x, index.first.flip(0), index.columns), "first: expected numbers that asc"),
        (lambda: GRADIENT(grad, x, index.first, index.columns.int()), "columns: expected uint8, got int32"),
    ]
    for call, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            call()
    for call in (
        lambda: WITH_VALUES(packed, values.clone().requires_grad_(), index.places),
        lambda: GRADIENT(grad.clone().requires_grad_(), x, *index[:2]),
    ):
        with pytest.raises(RuntimeError, match="this op has no backward"):
            call()


def test_damaged_columns_give_a_wrong_answer_and_no_crash() -> None:
    index = value_index(packed_of(mask_of(9, 70, 0.5)))
    for value in (69, 128, 255):
        assert (
            GRADIENT(torch.ones(130, 9), torch.ones(130, 70), index.first, index.columns * 0 + value)
            is not None
        )


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_bytes_are_refused(format: str) -> None:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, ::4] = True
    buffer = packed_of(mask, format).numpy().copy()
    first = 64 + int.from_bytes(buffer[64:72].tobytes(), "little")  # the tile's place
    buffer[first : first + 64] = 0
    with pytest.raises(prunus.FormatError):
        _core.kept_columns(buffer)
    with pytest.raises(prunus.FormatError):
        _core.value_places(buffer)


def test_opcheck() -> None:
    packed = packed_of(mask_of(6, 70, 0.5))
    index = value_index(packed)
    values = torch.randn(len(index.columns))
    torch.library.opcheck(WITH_VALUES, (packed, values, index.places))
    for lead, dtype in itertools.product(((4,), (2, 3), (), (0,)), (torch.float32, torch.bfloat16)):
        grad, x = torch.randn(*lead, 6, dtype=dtype), torch.randn(*lead, 70, dtype=dtype)
        torch.library.opcheck(GRADIENT, (grad, x, index.first, index.columns))
