"""bfloat16 and float16 models, and autocast: accelerated, fused, saved and loaded like float32 ones."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from model_zoo import IDS, sparse_, tiny
from small_models import Sizes, build
from torch import nn

import prunus
from prunus import SparseLinear, accelerate_
from prunus.accelerate import race as race_module

HALF = [torch.bfloat16, torch.float16]
SIZES = Sizes(99, 64, 2, 4, 96, 64)
FAMILIES = ["bert", "roberta", "electra", "llama", "qwen2", "mistral", "gpt2", "opt", "distilbert"]
TOKENS = {"input_ids": torch.arange(2, 34).reshape(2, 16)}


@pytest.fixture(autouse=True)
def few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)
    monkeypatch.setattr(race_module, "SECONDS", 0.0)


def family(name: str) -> nn.Module:
    torch.manual_seed(0)
    return sparse_(build(name, SIZES), 0.7)


def converted(report: prunus.AccelerateReport) -> list[str]:
    return [row["name"] for row in report.rows if row["converted"]]


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**TOKENS)[0]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_half_families_are_accelerated_and_fused(name: str, dtype: torch.dtype) -> None:
    dense = family(name).to(dtype)
    model = copy.deepcopy(dense)
    report = accelerate_(model, TOKENS, min_speedup=0.0)
    assert len(converted(report)) >= 8
    got, expected = outputs(model), outputs(dense)
    assert got.dtype == expected.dtype == dtype
    assert report.summary["relative_error"] < 0.05
    assert float((got.float() - expected.float()).norm() / expected.float().norm()) < 0.05


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_autocast_runs_fused_models_as_it_runs_dense_ones(name: str, dtype: torch.dtype) -> None:
    dense = family(name)
    model = copy.deepcopy(dense)
    accelerate_(model, TOKENS, min_speedup=0.0)
    with torch.autocast("cpu", dtype):
        got, expected = outputs(model), outputs(dense)
    assert got.dtype == expected.dtype
    assert float((got.float() - expected.float()).norm() / expected.float().norm()) < 0.05


def test_accelerating_under_autocast() -> None:
    model = family("bert")
    with torch.autocast("cpu", torch.bfloat16):
        report = accelerate_(model, TOKENS, min_speedup=0.0)
    assert len(converted(report)) >= 8
    assert report.summary["relative_error"] < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_ops_under_autocast_answer_in_its_dtype(dtype: torch.dtype) -> None:
    linear = sparse_(nn.Linear(32, 24), 0.5)
    layer = SparseLinear.from_linear(linear)
    x, residual = torch.randn(5, 32), torch.randn(5, 24)
    p = layer.packed_weight
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        expected = linear(x)
        assert layer(x).dtype == prunus.linear(x, p, layer.bias).dtype == expected.dtype == dtype
        torch.testing.assert_close(layer(x), expected, rtol=2e-2, atol=2e-2)
        assert prunus.gated(x, p, p).dtype == (F.silu(expected) * expected).dtype
        summed = prunus.linear(x, p, layer.bias, residual=residual)
        assert summed.dtype == (expected + residual).dtype
        torch.testing.assert_close(summed, expected + residual, rtol=2e-2, atol=2e-2)


def test_gradients_under_autocast_have_the_dtypes_of_their_tensors() -> None:
    linear = sparse_(nn.Linear(32, 24), 0.5)
    layer = SparseLinear.from_linear(copy.deepcopy(linear))
    xs = [torch.randn(5, 32).requires_grad_() for _ in range(2)]
    xs[1].data.copy_(xs[0].data)
    for module, x in zip((linear, layer), xs, strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
    assert xs[1].grad.dtype == torch.float32
    torch.testing.assert_close(xs[1].grad, xs[0].grad, rtol=5e-2, atol=5e-1)
    torch.testing.assert_close(layer.bias.grad, linear.bias.grad, rtol=5e-2, atol=5e-1)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_half_layer_goes_back_to_what_it_was(dtype: torch.dtype) -> None:
    for bias in (True, False):
        linear = sparse_(nn.Linear(16, 8, bias=bias), 0.5).to(dtype)
        layer = SparseLinear.from_linear(linear)
        assert layer.packed_weight.dtype == str(dtype).removeprefix("torch.")
        back = layer.to_linear()
        assert back.weight.dtype == dtype
        assert torch.equal(back.weight, linear.weight)
        x = torch.randn(3, 16, dtype=dtype)
        assert back(x).dtype == dtype
        assert layer.float().to_linear().weight.dtype == torch.float32
        assert copy.deepcopy(layer).to(dtype).to_linear().weight.dtype == dtype


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_half_model_is_saved_and_loaded(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny().to(dtype)
    accelerate_(model, IDS, min_speedup=0.0)
    prunus.save(model, tmp_path / "m.safetensors")
    loaded = prunus.load(tiny(seed=1).to(dtype), tmp_path / "m.safetensors")
    with torch.no_grad():
        expected, got = model(IDS), loaded(IDS)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert loaded.up.to_linear().weight.dtype == dtype
    assert loaded.head.weight is loaded.embed.weight


def test_float64_models_stay_dense_with_the_reason() -> None:
    model = nn.Sequential(sparse_(nn.Linear(16, 16))).double()
    report = accelerate_(model, torch.ones(2, 16, dtype=torch.float64), min_speedup=0.0)
    assert report.rows[0]["reason"].startswith("weight is float64 on cpu: only float32, bfloat16 and float16")
