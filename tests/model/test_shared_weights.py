"""One weight in several places stays one weight from prune_ to load."""

import copy

import pytest
import torch
from small_models import Sizes, build
from torch import nn
from transformers import AlbertConfig, AlbertModel

import prunus
from prunus import SparseLinear, Unstructured, accelerate_, load, prune_, save
from prunus.accelerate import race as race_module

IDS = torch.arange(2, 26).reshape(2, 12)
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 16}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """What is measured faster does not matter here."""
    monkeypatch.setattr(race_module, "SECONDS", 0.0)
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)


def albert():
    """Four layers that are one module run four times."""
    torch.manual_seed(0)
    return AlbertModel(
        AlbertConfig(**SIZES, num_hidden_layers=4, vocab_size=60, initializer_range=0.2)
    ).eval()


def gpt2():
    """Its head is the embedding."""
    torch.manual_seed(0)
    return build("gpt2", Sizes(hidden=32, width=None))


def twins():
    """Two Linear layers with one weight and biases of their own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(60, 32), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))
    model[3].weight = model[1].weight
    return model.eval()


def output(model):
    with torch.no_grad():
        found = model(IDS)
    return found if isinstance(found, torch.Tensor) else found[0]


@pytest.mark.parametrize(("build", "layers"), [(albert, 6), (gpt2, 8), (twins, 1)])
def test_pruned_and_counted_once(build, layers):
    model = build()
    report = prune_(model, Unstructured(0.75))
    assert report.summary["layers"] == layers
    weights = {id(p): p for p in model.parameters() if p.dim() == 2 and (p == 0).float().mean() > 0.5}
    assert report.summary["weights"] == sum(p.numel() for p in weights.values())
    assert report.summary["zeros"] == sum(int((p == 0).sum()) for p in weights.values())
    assert report.summary["sparsity"] == 0.75


@pytest.mark.parametrize("build", [albert, gpt2, twins])
def test_one_weight_through_convert_save_and_load(build, tmp_path):
    model = build()
    prune_(model, Unstructured(0.75))
    accelerate_(model, IDS, min_speedup=0.0)
    expected = output(model)
    save(model, tmp_path / "model.safetensors")
    loaded = load(build(), tmp_path / "model.safetensors")
    torch.testing.assert_close(output(loaded), expected)
    for each in (model, loaded, copy.deepcopy(loaded)):
        sparse = [m for m in each.modules() if isinstance(m, SparseLinear)]
        if build is albert:
            assert len(sparse) == 6
        elif build is gpt2:
            assert len(sparse) == 8
            assert each.lm_head.weight is each.transformer.wte.weight
        else:
            # Packed one by one the twins would be two weights: they stay dense, and one.
            assert not sparse
            assert each[1].weight is each[3].weight
            assert each[1].bias is not each[3].bias
    stored = (tmp_path / "model.safetensors").stat().st_size
    dense = sum(p.numel() * 4 for p in build().parameters())
    assert stored < dense


def test_the_pruned_head_of_a_tied_model_is_the_pruned_embedding():
    model = gpt2()
    prune_(model, Unstructured(0.5), filter_fn=lambda module, name: name == "lm_head")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert int((model.transformer.wte.weight == 0).sum()) == 60 * 32 // 2
    report = prunus.accelerate_(model, IDS, min_speedup=0.0)
    reasons = {row["name"]: row["reason"] for row in report.rows}
    assert reasons["lm_head"] == "weight is shared with transformer.wte"
