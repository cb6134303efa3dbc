"""Products with format warp, the kernels run on the host against the naive ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_table import Table

import prunus
from prunus.ops.autograd import FUNCTIONS

GOLDEN = Path(__file__).parents[1] / "formats/golden"
XS = (torch.float32, torch.float16, torch.bfloat16)
STORED = ("float32", "float16", "bfloat16", "int8")
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(scope="module")
def table(host_library: Path) -> Table:
    return Table(host_library)


def pruned(n: int, k: int, sparsity: float, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=rng)
    return w * (torch.rand(n, k, generator=rng) >= sparsity)


def tokens(m: int, k: int, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype)


def expected(x: torch.Tensor, p: prunus.PackedWeight) -> torch.Tensor:
    return x.double() @ torch.from_numpy(p.to_dense()).double().T


def check(y: torch.Tensor, right: torch.Tensor) -> None:
    scale = max(1.0, float(right.abs().max())) if right.numel() else 1.0
    assert float((y.double() - right).abs().max() if right.numel() else 0.0) <= TOLERANCE[y.dtype] * scale


@pytest.mark.parametrize("x_dtype", XS)
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 8, 9])
def test_every_pair_of_types(table: Table, x_dtype: torch.dtype, stored: str, m: int) -> None:
    p = prunus.pack(pruned(37, 136, 0.6), dtype=stored, format="warp")
    x = tokens(m, 136, x_dtype)
    check(table.linear(x, p), expected(x, p))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 65])
@pytest.mark.parametrize("k", [1, 31, 255, 256, 257, 1031])
def test_shapes(table: Table, n: int, k: int, sparsity: float) -> None:
    p = prunus.pack(pruned(n, k, sparsity), dtype="bfloat16", format="warp")
    for m in (1, 3):
        x = tokens(m, k, torch.bfloat16)
        check(table.linear(x, p), expected(x, p))


@pytest.mark.parametrize("n", [4096 + 3, 8192, 16384 + 1])
def test_rows_that_share_a_warp(table: Table, n: int) -> None:
    p = prunus.pack(pruned(n, 16, 0.5), dtype="float32", format="warp")
    x = tokens(1, 16, torch.float32)
    check(table.linear(x, p), expected(x, p))


def test_more_tiles_than_the_call_has_warps_for(table: Table) -> None:
    # One kept weight in a row: eight rows share a warp; then one row has one, as a later version may decide.
    dense = torch.ones(96, 600)
    p = prunus.pack(dense, dtype="float32", format="warp")
    assert p._info["tile_rows"] < 8
    x = tokens(2, 600, torch.float32)
    check(table.linear(x, p), expected(x, p))


def test_strided_and_misaligned_tokens(table: Table) -> None:
    p = prunus.pack(pruned(33, 64, 0.5), dtype="float32", format="warp")
    wide = tokens(3, 200, torch.float32)
    for x in (wide[:, 8:72], wide[:, 1:65], wide[::2, 3:67]):
        check(table.linear(x, p), expected(x, p))


@pytest.mark.parametrize("activation", range(5))
@pytest.mark.parametrize("dtype", XS)
def test_what_is_fused(table: Table, dtype: torch.dtype, activation: int) -> None:
    p = prunus.pack(pruned(19, 48, 0.4), dtype="float32", format="warp")
    x, residual = tokens(3, 48, dtype), tokens(3, 19, dtype, seed=2)
    for bias in (tokens(1, 19, dtype, seed=3)[0], tokens(1, 19, torch.float32, seed=3)[0]):
        right = expected(x, p) + bias.double()
        right = (FUNCTIONS[activation](right) if activation else right) + residual.double()
        check(table.linear(x, p, bias, activation, residual), right)
        sums = expected(x, p).to(dtype)
        check(table.finish(sums, bias, activation, residual), right)
    check(table.linear(x, p, times=residual), expected(x, p) * residual.double())


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("dtype", STORED)
def test_golden_weights(table: Table, dtype: str, shape: str) -> None:
    """Whole numbers: every sum is exact in any order."""
    with np.load(GOLDEN / f"warp-{dtype}.npz") as file:
        p = prunus.PackedWeight.from_buffer(file[f"{shape}_packed"])
        dense = torch.from_numpy(file[f"{shape}_dense"]).float()
    for m in (1, 2, 5, 8):
        x = torch.randint(-9, 10, (m, dense.shape[1]), generator=torch.Generator().manual_seed(m)).float()
        assert torch.equal(table.linear(x, p), x @ dense.t())


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("m", [1, 4])
def test_a_zero_weight_does_not_spread_what_is_not_finite(table: Table, bad: float, m: int) -> None:
    w = pruned(24, 300, 0.95)
    w[:, 17] = 0
    w[3, 17] = 1.0
    p = prunus.pack(w, dtype="float32", format="warp")
    x = tokens(m, 300, torch.float32)
    clean = table.linear(x, p)
    x[0, 17] = bad
    y = table.linear(x, p)
    assert not y[0, 3].isfinite()
    y[0, 3] = clean[0, 3]
    assert torch.equal(y, clean)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", XS)
def test_expanded_it_is_the_dense_weight(table: Table, stored: str, dtype: torch.dtype) -> None:
    for n, k, sparsity in ((1, 1, 0.0), (37, 300, 0.9), (70, 129, 0.5), (9, 40, 1.0)):
        p = prunus.pack(pruned(n, k, sparsity), dtype=stored, format="warp")
        assert torch.equal(table.expand(p, dtype), torch.from_numpy(p.to_dense()).to(dtype))


def test_bytes_of_another_weight_give_nan(table: Table) -> None:
    p = prunus.pack(pruned(16, 64, 0.5), format="warp")
    x = tokens(2, 64, torch.float32)
    buffer = torch.from_numpy(p.buffer)
    assert table.linear(x, buffer, shape=(17, 64)).isnan().all()
    assert table.linear(x, buffer[:-64], shape=(16, 64)).isnan().all()
    other = prunus.pack(pruned(16, 64, 0.5), format="bitmap")
    assert table.linear(x, torch.from_numpy(other.buffer), shape=(16, 64)).isnan().all()


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_bytes_are_read_within_their_bounds(table: Table, data: st.DataObject) -> None:
    """Whatever lies in the bytes, the kernels stay in them: a page that nobody may touch is behind them."""
    p = prunus.pack(pruned(40, 90, 0.7), dtype=data.draw(st.sampled_from(STORED)), format="warp")
    buffer = torch.from_numpy(p.buffer.copy())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, buffer.numel() - 1))
        buffer[at] = data.draw(st.integers(0, 255))
    y = table.linear(tokens(2, 90, torch.float32), buffer, shape=(40, 90))
    assert y.shape == (2, 40)


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 200),
    m=st.integers(1, 6),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_any_shape(table: Table, n: int, k: int, m: int, sparsity: float, seed: int) -> None:
    p = prunus.pack(pruned(n, k, sparsity, seed), dtype="float16", format="warp")
    x = tokens(m, k, torch.float16, seed)
    check(table.linear(x, p), expected(x, p))
