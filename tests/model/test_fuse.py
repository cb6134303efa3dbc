"""Fused modules: the same answers, names and state as what they replace, in models of every shape."""

import copy
import pickle

import pytest
import torch
from model_zoo import sparse_
from small_models import Sizes, build
from torch import Tensor, nn

import prunus
from prunus.accelerate.survey import survey
from prunus.balance.table import swapped
from prunus.nn.fuse import fusions
from prunus.nn.fused import FusedMLP, FusedResidual
from prunus.nn.shared import SharedLinear

SIZES = Sizes(40, 32, 2, 4, 64, 32)
IDS = torch.arange(24).reshape(2, 12) % 40


def bert(**options: object) -> nn.Module:
    return build("bert", SIZES, **options)


def llama(**options: object) -> nn.Module:
    return build("llama", SIZES, **options)


def gpt2(**options: object) -> nn.Module:
    return build("gpt2", SIZES, **options)


def distilbert(**options: object) -> nn.Module:
    return build("distilbert", SIZES, **options)


# What is fused in a block, by its last names.
BERT = {"attention.output": "residual", "output": "residual", "query": "shared input"}
BLOCKS = {
    "bert": (bert, {"intermediate": "gelu", **BERT}),
    "bert relu": (lambda: bert(hidden_act="relu"), {"intermediate": "relu", **BERT}),
    "llama": (llama, {"mlp": "gated silu", "q_proj": "shared input"}),
    "llama gelu": (
        lambda: llama(hidden_act="gelu_pytorch_tanh"),
        {"mlp": "gated gelu_tanh", "q_proj": "shared input"},
    ),
    "gpt2": (gpt2, {"mlp": "gelu_tanh"}),
    "distilbert": (distilbert, {"ffn": "gelu", "q_lin": "shared input"}),
    "gptj": (lambda: build("gptj", SIZES), {"mlp": "gelu_tanh", "q_proj": "shared input"}),
    "falcon": (lambda: build("falcon", SIZES), {"mlp": "gelu"}),
    "deberta": (
        lambda: build("deberta", SIZES),
        {
            "intermediate": "gelu",
            "attention.output": "residual",
            "output": "residual",
            "query_proj": "shared input",
        },
    ),
}


def packed(model: nn.Module) -> nn.Module:
    """Pruned, with every Linear of the blocks packed, whatever a clock says."""
    sparse_(model.eval(), 0.7)
    prunus.accelerate_(model, {"input_ids": IDS}, min_speedup=0.0)
    return model


def outputs(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids)[0]


def fused(model: nn.Module) -> dict[str, nn.Module]:
    return {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, (FusedMLP, FusedResidual)) or (isinstance(m, SharedLinear) and m.leads)
    }


@pytest.fixture(params=list(BLOCKS))
def case(request, monkeypatch):
    """(dense model with zeros, packed but not fused, packed and fused, expected kinds)"""
    make, kinds = BLOCKS[request.param]
    torch.manual_seed(0)
    dense = sparse_(make().eval(), 0.7)
    monkeypatch.setattr("prunus.accelerate.trial.fuse_faster", lambda model, sites, known, fused: [])
    plain = packed(copy.deepcopy(dense))
    both = copy.deepcopy(plain)
    names = prunus.fuse_(both)
    assert set(names) == set(fused(both))
    return dense, plain, both, kinds


def test_what_is_fused_and_that_nothing_changes(case):
    dense, plain, model, kinds = case
    found = fused(model)
    assert len(found) == 2 * len(kinds)  # two blocks
    for name, module in found.items():
        path = name.split(".", 2 + name.split(".").index(next(p for p in name.split(".") if p.isdigit())))[-1]
        kind = next(kind for end, kind in sorted(kinds.items(), key=len) if path.endswith(end))
        if isinstance(module, FusedMLP):
            assert kind.split()[-1] == module.fused_activation
            assert ("gate" in module.roles) == kind.startswith("gated")
        else:
            assert kind == ("residual" if isinstance(module, FusedResidual) else "shared input")
    torch.testing.assert_close(outputs(model), outputs(plain), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs(model), outputs(dense), rtol=1e-3, atol=1e-4)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert prunus.fuse_(model) == []  # a second time there is nothing to do


def test_copies_files_and_checkpoints(case, tmp_path):
    dense, plain, model, _ = case
    expected = outputs(model)
    prunus.save(plain, tmp_path / "plain.safetensors")
    fresh = prunus.load(copy.deepcopy(dense), tmp_path / "plain.safetensors")
    assert not fused(fresh)
    assert torch.equal(outputs(fresh), outputs(plain))
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(again), expected)
        assert fused(again).keys() == fused(model).keys()
    prunus.save(model, tmp_path / "model.safetensors")
    fresh = prunus.load(copy.deepcopy(dense), tmp_path / "model.safetensors")
    assert fused(fresh).keys() == fused(model).keys()
    assert torch.equal(outputs(fresh), expected)


def test_training_mode_drops_and_gradients_flow(case):
    _, plain, model, _ = case
    for m in (plain, model):
        m.train()
        for module in m.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    for m in (plain, model):
        m.zero_grad()
        m(input_ids=IDS)[0].square().sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-3)


def test_dropout_still_drops():
    model = packed(bert())
    module = next(m for m in fused(model).values() if isinstance(m, FusedResidual))
    x, residual = torch.ones(1, 4, module.part("dense").in_features), torch.zeros(1, 4, 32)
    module.train()
    torch.manual_seed(0)
    first = module(x, residual)
    assert not torch.equal(first, module(x, residual))
    module.eval()
    assert torch.equal(module(x, residual), module(x, residual))


def test_back_to_dense_layers(case):
    """What to_linear gives takes the place of a packed layer, also inside of a fused module."""
    dense, _, model, _ = case
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, prunus.SparseLinear):
                setattr(module, name, child.to_linear())
    assert not any(isinstance(module, prunus.SparseLinear) for module in model.modules())
    torch.testing.assert_close(outputs(model), outputs(dense), rtol=1e-4, atol=1e-5)


def test_who_holds_the_original_reaches_what_runs():
    """`balance_` times the dense layers in the places that it found before the modules were fused."""
    torch.manual_seed(0)
    model = sparse_(bert().eval(), 0.9)
    expected = outputs(model)
    sites = survey(model, None)
    dense = [site.module for site in sites]
    for site in sites:
        site.put(prunus.SparseLinear.from_linear(site.module))
    assert prunus.fuse_(model)
    with swapped(sites, dense):
        assert not any(isinstance(module, prunus.SparseLinear) for module in model.modules())
        assert torch.equal(outputs(model), expected)
    assert sum(isinstance(module, prunus.SparseLinear) for module in model.modules()) == len(sites)


def test_an_error_after_fusing_undoes_everything(monkeypatch):
    torch.manual_seed(0)
    model = sparse_(bert().eval(), 0.9)
    before = {name: id(module) for name, module in model.named_modules()}
    calls = []

    def broken(model, sites, known, fused):
        fused += fusions(model)
        for fusion in fused:
            fusion.put(fusion.fused)
        handle = model.register_forward_pre_hook(lambda *a: calls.append(handle.remove()) or 1 / 0)
        return [{} for _ in fused]

    monkeypatch.setattr("prunus.accelerate.trial.fuse_faster", broken)
    with pytest.raises(ZeroDivisionError):
        prunus.accelerate_(model, {"input_ids": IDS}, min_speedup=0.0)
    assert calls
    assert {name: id(module) for name, module in model.named_modules()} == before


def test_compiles(case):
    _, _, model, _ = case
    torch._dynamo.reset()
    compiled = torch.compile(model)
    torch.testing.assert_close(outputs(compiled), outputs(model), rtol=1e-4, atol=1e-5)


def test_generation():
    torch.manual_seed(0)
    dense = sparse_(llama().eval(), 0.5)
    model = copy.deepcopy(dense)
    prunus.accelerate_(model, {"input_ids": IDS}, min_speedup=0.0)
    assert prunus.fuse_(model) or fused(model)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS[:, :4], **options), dense.generate(IDS[:, :4], **options))


def test_accelerate_reports_fusions():
    torch.manual_seed(0)
    model = sparse_(bert().eval(), 0.9)
    report = prunus.accelerate_(model, {"input_ids": IDS}, min_speedup=0.0)
    rows = report.summary["fused"]
    assert {row["name"] for row in rows} == set(fused(model))
    for row in rows:
        assert row["kind"] in ("gelu", "residual", "shared input")
        assert row["ms_before"] > 0
        assert row["ms_after"] > 0
    assert report.summary["relative_error"] < 1e-5
    assert "fused" in report.summary_line() or not rows


def _hook(model):
    model.encoder.layer[0].intermediate.dense.register_forward_hook(lambda *a: None)


def _extra_child(model):
    model.encoder.layer[0].intermediate.adapter = nn.Linear(2, 2)


def _other_activation(model):
    model.encoder.layer[0].intermediate.intermediate_act_fn = nn.Tanh()


def _other_forward(model):
    module = model.encoder.layer[0].intermediate
    module.__class__ = type(
        "Doubled", (type(module),), {"forward": lambda self, x: 2 * super(type(self), self).forward(x)}
    )


@pytest.mark.parametrize("change", [_hook, _extra_child, _other_activation, _other_forward])
def test_what_is_not_understood_is_left_alone(change, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("prunus.accelerate.trial.fuse_faster", lambda model, sites, known, fused: [])
    model = packed(bert())
    change(model)
    expected = outputs(model)
    names = prunus.fuse_(model)
    assert not any(name.endswith("0.intermediate") for name in names)
    assert any(name.endswith("1.intermediate") for name in names)
    torch.testing.assert_close(outputs(model), expected, rtol=1e-4, atol=1e-5)


def test_dense_layers_are_left_alone():
    model = sparse_(bert().eval(), 0.9)
    assert prunus.fuse_(model) == []


def test_only_the_named_are_fused():
    torch.manual_seed(0)
    model = sparse_(bert().eval(), 0.7)
    for block in model.encoder.layer:
        block.intermediate.dense = prunus.SparseLinear.from_linear(block.intermediate.dense)
    assert prunus.fuse_(model, []) == []
    assert prunus.fuse_(model, ["encoder.layer.1.intermediate", "nowhere"]) == [
        "encoder.layer.1.intermediate"
    ]
    attention = model.encoder.layer[0].attention.self
    for name in ("query", "key"):
        setattr(attention, name, prunus.SparseLinear.from_linear(getattr(attention, name)))
    assert prunus.fuse_(model) == ["encoder.layer.0.intermediate"]  # value is dense


def test_bad_model():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got str"):
        prunus.fuse_("model")
