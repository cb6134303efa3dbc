"""The way back from packed layers: to_dense_, and pruning again."""

import copy
import pickle

import pytest
import torch
from small_models import Sizes, build
from torch import nn

import prunus
from prunus import SparseLinear, Unstructured
from prunus.nn import Fused

IDS = torch.arange(24).view(2, 12)


SIZES = Sizes(vocabulary=99, hidden=32, width=64)


def bert() -> nn.Module:
    torch.manual_seed(0)
    return build("bert", SIZES)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return build("gpt2", SIZES)


def first(output: object) -> torch.Tensor:
    return next(iter(output.values()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [bert, gpt2])
def test_the_model_is_what_it_was(make) -> None:
    model = make()
    prunus.prune_(model, Unstructured(0.8))
    kinds = {name: type(module) for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = first(model(IDS))
    prunus.accelerate_(model, IDS, min_speedup=0.0)
    assert any(isinstance(module, SparseLinear) for module in model.modules())
    model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    names = prunus.to_dense_(model)
    assert len(names) >= 8
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert not any(isinstance(module, Fused) for module in model.modules())
    after = model.state_dict()
    assert list(after) == list(state)
    for name, tensor in state.items():
        assert torch.equal(after[name], tensor), name
    with torch.no_grad():
        assert torch.equal(first(model(IDS)), expected)


def test_pruned_again_only_on_the_way_back() -> None:
    model = bert()
    prunus.prune_(model, Unstructured(0.5))
    prunus.accelerate_(model, IDS, min_speedup=0.0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"model: expected ordinary layers, got \d+ packed ones .*to_dense_"):
        prunus.prune_(model, Unstructured(0.8))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    prunus.to_dense_(model)
    report = prunus.prune_(model, Unstructured(0.8))
    assert report.summary["sparsity"] > 0.75
    assert prunus.to_dense_(model) == []


def test_a_tied_head_is_tied_again(tmp_path) -> None:
    model = gpt2()
    dense = copy.deepcopy(model)
    prunus.accelerate_(model, IDS, "int8", min_speedup=0.0)
    assert isinstance(model.lm_head, SparseLinear)
    prunus.save(model, tmp_path / "m.safetensors")
    loaded = prunus.load(copy.deepcopy(dense), tmp_path / "m.safetensors")
    for one in (model, copy.deepcopy(model), loaded):
        prunus.to_dense_(one)
        assert one.lm_head.weight is one.transformer.wte.weight
        assert torch.equal(one.lm_head.weight, dense.lm_head.weight)


def test_shared_layers_stay_one_module() -> None:
    layer = nn.Linear(16, 16)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    prunus.prune_(model, Unstructured(0.9))
    prunus.accelerate_(model, torch.ones(4, 16), min_speedup=0.0)
    assert model[0] is model[2]
    assert prunus.to_dense_(model) == ["0"]
    assert model[0] is model[2]


def test_nothing_changes_where_a_layer_cannot_go_back() -> None:
    plain, active = (SparseLinear.from_linear(nn.Linear(4, 4), activation=a) for a in (None, "relu"))
    model = nn.Sequential(plain, active)
    with pytest.raises(ValueError, match="1: activation: expected None"):
        prunus.to_dense_(model)
    assert model[0] is plain
    with pytest.raises(ValueError, match="expected a model around packed layers"):
        prunus.to_dense_(plain)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
        prunus.to_dense_([plain])
