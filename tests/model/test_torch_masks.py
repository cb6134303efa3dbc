"""Models that torch itself pruned: accelerate_ and save take them as they are."""

import copy

import pytest
import torch
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

import prunus
from prunus.accelerate import accelerate_
from prunus.accelerate import verb as accelerate_module
from prunus.checkpoint import load, save

X = torch.randn(16, 64, generator=torch.Generator().manual_seed(3))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()


def masked():
    """Layer 0 masked by torch.nn.utils.prune, layer 2 by torch.ao.pruning, layer 4 not at all."""
    model = plain()
    torch_prune.l1_unstructured(model[0], "weight", 0.9)
    sparsifier = WeightNormSparsifier(sparsity_level=0.9)
    sparsifier.prepare(model, [{"tensor_fqn": "2.weight"}])
    sparsifier.step()
    return model


def is_masked(model):
    return torch_prune.is_pruned(model[0]) and parametrize.is_parametrized(model[2], "weight")


@torch.no_grad()
def test_they_are_converted():
    model = masked()
    expected = model(X)
    report = accelerate_(model, X, min_speedup=0.0)
    assert [row["converted"] for row in report.rows] == [True, True, False]
    assert [round(row["sparsity"], 2) for row in report.rows] == [0.9, 0.9, 0.0]
    assert [type(model[i]) for i in (0, 2, 4)] == [prunus.SparseLinear, prunus.SparseLinear, nn.Linear]
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_stays_dense_keeps_its_mask():
    model = masked()
    before, expected = copy.deepcopy(model.state_dict()), model(X)
    assert accelerate_(model, X, min_speedup=1e9).summary["converted"] == 0
    assert is_masked(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    model[0].weight_orig *= 2  # the masks are alive, not frozen into the weight
    model[2].parametrizations.weight.original *= 2
    model[0].bias *= 2
    assert not torch.equal(model(X), expected)


def test_an_error_leaves_the_masks(monkeypatch):
    def fail(*_):
        raise RuntimeError("broke")

    model = masked()
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(accelerate_module, "race", fail)
    with pytest.raises(RuntimeError, match="broke"):
        accelerate_(model, X)
    assert is_masked(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_the_file_holds_an_ordinary_model(tmp_path):
    model = masked()
    names = list(model.state_dict())
    save(model, tmp_path / "model.safetensors")
    assert is_masked(model)
    assert list(model.state_dict()) == names
    assert (tmp_path / "model.safetensors").stat().st_size < 0.75 * 4 * 64 * (64 + 64 + 8)
    loaded = load(plain(), tmp_path / "model.safetensors")
    assert [int((loaded[i].weight == 0).sum()) for i in (0, 2)] == [3686, 3688]  # torch.ao takes fours
    assert torch.equal(loaded(X), model(X))


@torch.no_grad()
def test_other_parametrizations_are_no_masks(tmp_path):
    """Weight norm belongs to the architecture: a fresh model has it too."""
    model, fresh = (nn.Sequential(parametrizations.weight_norm(nn.Linear(64, 8))) for _ in range(2))
    assert accelerate_(model, X, min_speedup=0.0).rows[0]["reason"] == "parametrised"
    save(model, tmp_path / "model.safetensors")
    assert torch.equal(load(fresh, tmp_path / "model.safetensors")(X), model(X))


@torch.no_grad()
def test_a_masked_bias_is_not_lost():
    linear = nn.Linear(64, 8)
    torch_prune.l1_unstructured(linear, "bias", 0.5)
    layer = prunus.SparseLinear.from_linear(linear)
    torch.testing.assert_close(layer(X), linear(X), rtol=1e-4, atol=1e-5)
