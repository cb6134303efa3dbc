"""Experts of mixtures: accelerate_ packs their matrices one by one, and all that follows knows them."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import prunus
from prunus import Neurons, SparseLinear, Unstructured, accelerate_, prune_, shrink_, to_dense_
from prunus.accelerate import experts as experts_module
from prunus.accelerate import race as race_module
from prunus.nn import Experts
from prunus.nn.experts import split_experts_

transformers = pytest.importorskip("transformers")

ANY = 0.0  # min_speedup that converts whatever can be converted, so that no test depends on timing
SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 60,
    "initializer_range": 0.2,  # else the experts add nothing that can be seen in the answers
}
KINDS = ("mixtral", "qwen3-moe")
COUNT, WIDTH = 4, 48
IDS = {"input_ids": torch.arange(60).view(4, 15)}
OTHERS = {"input_ids": torch.arange(60).flip(0).view(3, 20)}
FIRST = "model.layers.0.mlp.experts"


@pytest.fixture(autouse=True)
def few_passes(monkeypatch):
    for module in (race_module, experts_module):
        monkeypatch.setattr(module, "MIN_PASSES", 1)
        monkeypatch.setattr(module, "SECONDS", 0.0)


def make(kind="mixtral", dtype=torch.float32, sparsity=0.7):
    torch.manual_seed(0)
    if kind == "mixtral":
        config = transformers.MixtralConfig(**SIZES, intermediate_size=WIDTH, num_local_experts=COUNT)
        model = transformers.MixtralForCausalLM(config)
    elif kind == "qwen3-moe":
        config = transformers.Qwen3MoeConfig(
            **SIZES, moe_intermediate_size=WIDTH, num_experts=COUNT, num_experts_per_tok=2, head_dim=8
        )
        model = transformers.Qwen3MoeForCausalLM(config)
    else:
        config = transformers.GptOssConfig(
            **SIZES, intermediate_size=WIDTH, num_local_experts=COUNT, head_dim=8
        )
        model = transformers.GptOssForCausalLM(config)
        for parameter in model.model.layers.parameters():
            parameter.data.normal_(0.0, 0.2)
    if sparsity:
        prune_(model, Unstructured(sparsity))
    return model.to(dtype).eval()


def accelerated(**arguments):
    model = make(**arguments)
    accelerate_(model, IDS, min_speedup=ANY)
    return model


def logits(model, batch=IDS):
    with torch.no_grad():
        return model(**batch).logits


def experts_of(model, layer=0):
    return model.model.layers[layer].mlp.experts


def rows_of(report):
    return {row["name"]: row for row in report.rows if ".experts." in row["name"]}


def reasons_of(report):
    return {row["reason"] for row in rows_of(report).values()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_every_matrix_is_packed_and_answers_stay(kind, dtype, tolerance):
    model = make(kind, dtype)
    dense = copy.deepcopy(model)
    report = accelerate_(model, IDS, min_speedup=ANY)
    rows = rows_of(report)
    assert len(rows) == 2 * 2 * COUNT
    assert all(row["converted"] and row["runs"] == "sparse" for row in rows.values()), rows
    assert rows[f"{FIRST}.gate_up_proj.3"]["shape"] == (2 * WIDTH, 32)
    assert rows[f"{FIRST}.down_proj.3"]["shape"] == (32, WIDTH)
    # Every token asks two experts.
    assert sum(int(rows[f"{FIRST}.down_proj.{i}"]["m"]) for i in range(COUNT)) == 2 * 60
    assert all(row["dense_ms"] > 0 and row["sparse_ms"] > 0 and row["error"] < 0.02 for row in rows.values())
    assert [(row["name"], row["converted"]) for row in report.summary["experts"]] == [
        (f"model.layers.{i}.mlp.experts", True) for i in range(2)
    ]
    assert report.summary["reached"] > 0.7
    assert report.summary["bytes_after"] < report.summary["bytes_before"]
    assert isinstance(experts_of(model), Experts)
    assert all(isinstance(layer, SparseLinear) for _, _, _, layer in experts_of(model).layers())
    for batch in (IDS, OTHERS):  # other tokens, other experts
        expected = logits(dense, batch)
        error = (logits(model, batch) - expected).norm() / expected.norm()
        assert error < tolerance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_layers_give_the_bits_of_eager_experts(kind, dtype):
    model = make(kind, dtype, sparsity=0.0)
    model.set_experts_implementation("eager")
    expected = logits(model)
    for layer in model.model.layers:
        layer.mlp.experts = Experts(layer.mlp.experts)
    assert torch.equal(logits(model), expected)


def test_dense_models_run_in_lower_precision():
    model = make(sparsity=0.0)
    expected = logits(model)
    report = accelerate_(model, IDS, "int8", min_speedup=ANY, max_error=1.0)
    words = {row["runs"] for row in rows_of(report).values()}
    assert words <= {"int8", "bfloat16"}
    error = (logits(model) - expected).norm() / expected.norm()
    assert float(error) == pytest.approx(report.summary["relative_error"], rel=1e-3)
    assert 0 < error < 0.5


def test_what_is_not_faster_stays_as_it_was():
    model = make()
    before = experts_of(model), experts_of(model).gate_up_proj
    report = accelerate_(model, IDS, min_speedup=1e9)
    assert reasons_of(report) <= {"measured slower", "gain below 1000000000.00x"}
    assert (experts_of(model), experts_of(model).gate_up_proj) == before
    assert not experts_of(model)._forward_pre_hooks
    assert report.summary["experts"] == []


@pytest.mark.parametrize(
    ("ms", "reason"),
    [
        ((1.0, 2.0), "its experts together measured slower"),
        ((2.0, 1.9), "gain of its experts together below 1.50x"),
    ],
)
def test_experts_that_lose_as_a_whole_stay_as_they_were(monkeypatch, ms, reason):
    """Each matrix may win: `transformers` runs those of all experts in one call."""

    class Fixed(experts_module.Racer):
        def best_ms(self, which):
            return ms[which]

    monkeypatch.setattr(experts_module, "Racer", Fixed)
    monkeypatch.setattr(race_module.Racer, "best_ms", lambda self, which: (3.0, 1.0)[which])
    model = make()
    before = experts_of(model)
    report = accelerate_(model, IDS, min_speedup=1.5)
    assert reasons_of(report) == {reason}
    assert experts_of(model) is before
    assert {row["converted"] for row in report.summary["experts"]} == {False}
    assert isinstance(model.model.layers[0].self_attn.q_proj, SparseLinear)


def test_experts_that_no_token_asked_stay_dense_and_answer():
    model = make()
    for layer in model.model.layers:
        layer.mlp.gate.weight.data[2:] = 0.0
        layer.mlp.gate.weight.data[:2] = layer.mlp.gate.weight.data[:2].abs() + 1.0
    dense = copy.deepcopy(model)
    embedded = model.model.embed_tokens.weight.data
    dense.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data = embedded.abs()
    for layer in (*model.model.layers, *dense.model.layers):
        layer.self_attn.o_proj.weight.data.zero_()
    model.model.layers[1].mlp.experts = dense.model.layers[1].mlp.experts
    rows = rows_of(accelerate_(model, IDS, min_speedup=ANY))
    unseen = {name for name, row in rows.items() if row["reason"] == "not called by example_inputs"}
    assert {f"{FIRST}.{name}.{i}" for name in ("gate_up_proj", "down_proj") for i in (2, 3)} <= unseen
    x, shares = torch.randn(5, 32), torch.rand(5, 2)
    chosen = torch.tensor([[0, 2], [3, 1], [2, 3], [1, 0], [3, 0]])
    with torch.no_grad():
        expected = experts_of(dense)(x, chosen, shares)
        assert_close(experts_of(model)(x, chosen, shares), expected, rtol=1e-4, atol=1e-4)


def test_some_matrices_alone_let_go_of_the_whole_parameter():
    model = make()
    dense = copy.deepcopy(model)
    whole = experts_of(model).down_proj
    names = (f"{FIRST}.down_proj.1", f"{FIRST}.gate_up_proj.0")
    report = accelerate_(model, IDS, min_speedup=ANY, filter_fn=lambda module, name: name in names)
    converted = [name for name, row in rows_of(report).items() if row["converted"]]
    assert sorted(converted) == sorted(names)
    others = [layer for _, _, _, layer in experts_of(model).layers() if isinstance(layer, nn.Linear)]
    assert len(others) == 2 * COUNT - 2
    assert all(
        layer.weight.untyped_storage().nbytes() == 4 * layer.weight.numel()
        and layer.weight.requires_grad
        and layer.weight.data_ptr() != whole[1].data_ptr()
        for layer in others
    )
    assert not isinstance(experts_of(model, 1), Experts)
    assert_close(logits(model), logits(dense), rtol=1e-4, atol=1e-4)
    again = rows_of(accelerate_(model, IDS, min_speedup=ANY))
    assert all(row["converted"] or row["runs"] == "sparse" for row in again.values())
    assert_close(logits(model), logits(dense), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_pickles_and_states(kind):
    model = accelerated(kind=kind)
    expected = logits(model)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(again), expected)
        again.load_state_dict(model.state_dict())
        assert torch.equal(logits(again), expected)
    other = copy.deepcopy(model)
    for _, _, _, layer in experts_of(other).layers():
        layer.packed = prunus.SparseLinear(layer.in_features, layer.out_features).packed
    assert not torch.equal(logits(other), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_to_dense_gives_the_parameters_back(kind):
    model = make(kind)
    dense = copy.deepcopy(model)
    accelerate_(model, IDS, min_speedup=ANY)
    names = to_dense_(model)
    assert f"{FIRST}.down_proj.3" in names
    assert type(experts_of(model)) is type(experts_of(dense))
    state = model.state_dict()
    assert state.keys() == dense.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in dense.state_dict().items())
    assert torch.equal(logits(model), logits(dense))
    assert experts_of(model).gate_up_proj.requires_grad


def test_experts_by_themselves_become_dense_with_whole():
    with pytest.raises(ValueError, match=r"got the layer itself: use whole\(\)"):
        to_dense_(Experts(experts_of(make())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("some", [False, True])
def test_files_bring_them_back(kind, some, tmp_path):
    model = make(kind)
    shrink_(model, Neurons(0.5))
    accelerate_(
        model, IDS, min_speedup=ANY, filter_fn=lambda module, name: not (some and name.endswith("_proj.1"))
    )
    prunus.save(model, tmp_path / "model.safetensors")
    fresh = prunus.load(make(kind), tmp_path / "model.safetensors").eval()
    assert isinstance(experts_of(fresh), Experts)
    assert isinstance(experts_of(fresh).down_proj[1], nn.Linear if some else SparseLinear)
    assert torch.equal(logits(fresh), logits(model))
    again = prunus.load(fresh, tmp_path / "model.safetensors")
    assert torch.equal(logits(again), logits(model))
    empty = make(kind)
    empty.model.layers.to("meta")
    assert torch.equal(logits(prunus.load(empty, tmp_path / "model.safetensors")), logits(model))


@pytest.mark.parametrize("kind", KINDS)
def test_save_pretrained_writes_what_transformers_opens(kind, tmp_path):
    model = accelerated(kind=kind)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert type(experts_of(again)) is not Experts
    assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-4)


def test_a_file_that_does_not_fit_leaves_the_experts_alone(tmp_path):
    model = accelerated()
    prunus.save(model, tmp_path / "model.safetensors")
    other = make(sparsity=0.0)
    other.extra = nn.Linear(2, 2)
    before = experts_of(other), experts_of(other).down_proj.clone()
    with pytest.raises(ValueError, match=r"unexpected \['extra"):
        prunus.load(other, tmp_path / "model.safetensors")
    assert experts_of(other) is before[0]
    assert torch.equal(experts_of(other).down_proj, before[1])


@pytest.mark.parametrize(
    ("name", "got"), [("0", "no experts in 3-D parameters"), ("1.experts", "no such module")]
)
def test_a_model_without_the_experts_of_a_file_is_refused(name, got):
    with pytest.raises(
        ValueError, match=f"^model: expected experts that can be split at '{name}', got {got}$"
    ):
        split_experts_(nn.Sequential(nn.Linear(2, 2)), [name])


def hook(model):
    experts_of(model).register_forward_hook(lambda *_: None)


def share(model):
    experts_of(model, 1).down_proj = experts_of(model).down_proj


def parallel(model):
    experts_of(model)._is_expert_parallel = True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hook, "has hooks that a conversion would lose"),
        (share, f"weight is shared with {FIRST.replace('0', '1')}"),
        (parallel, "experts that are on several devices"),
    ],
)
def test_what_cannot_be_converted_says_why(change, reason):
    model = make()
    change(model)
    before = experts_of(model)
    report = accelerate_(model, IDS, min_speedup=ANY)
    assert {row["reason"] for name, row in rows_of(report).items() if name.startswith(FIRST)} == {reason}
    assert experts_of(model) is before


def test_experts_of_other_dtypes_stay():
    model = make(dtype=torch.float64)
    model.set_experts_implementation("eager")
    reason = "weight is float64 on cpu: only float32, bfloat16 and float16 on cpu are packed"
    assert reasons_of(accelerate_(model, IDS, min_speedup=ANY)) == {reason}


def test_other_kinds_of_experts_are_named_and_stay():
    model = make("gpt-oss")
    rows = rows_of(accelerate_(model, IDS, min_speedup=ANY))
    assert len(rows) == 2 * 2 * COUNT
    assert {row["reason"] for row in rows.values()} == {
        "experts with down_proj_bias, gate_up_proj_bias beside or instead of gate_up_proj and down_proj"
    }


def test_trainable_layers_are_not_for_experts():
    report = accelerate_(make(), IDS, min_speedup=ANY, trainable=True)
    assert reasons_of(report) == {"experts in 3-D parameters are not converted for training"}
    assert report.summary["converted"] > 0


def test_an_error_leaves_the_model_as_it_was(monkeypatch):
    model = make()
    before = [(name, id(module)) for name, module in model.named_modules()]

    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr("prunus.accelerate.verb.fuse", fail)
    with pytest.raises(RuntimeError, match="no"):
        accelerate_(model, IDS, min_speedup=ANY)
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert not experts_of(model)._forward_pre_hooks


def test_answers_that_change_too_much_bring_the_experts_back():
    model = make(sparsity=0.0)
    before = [experts_of(model, i) for i in range(2)]
    report = accelerate_(model, IDS, "int8", min_speedup=ANY, max_error=0.0)
    assert reasons_of(report) == {"the model's outputs change by more than 0 with it"}
    assert [experts_of(model, i) for i in range(2)] == before


def test_gradients_reach_the_router_and_the_inputs():
    model = make()
    packed = Experts(experts_of(model))
    for _, held, leaf, layer in list(packed.layers()):
        held._modules[leaf] = SparseLinear.from_linear(layer)
    chosen, found = torch.tensor([[0, 2], [3, 1], [2, 3]]), []
    for module in (experts_of(model), packed):
        torch.manual_seed(1)
        x, shares = torch.randn(3, 32, requires_grad=True), torch.rand(3, 2, requires_grad=True)
        found.append(torch.autograd.grad(module(x, chosen, shares).square().sum(), [x, shares]))
    for expected, got in zip(*found, strict=True):
        assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_under_autocast():
    model = make()
    dense = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        rows = rows_of(accelerate_(model, IDS, min_speedup=ANY))
        assert all(row["converted"] for row in rows.values())
        expected, got = logits(dense).float(), logits(model).float()
    assert (got - expected).norm() / expected.norm() < 0.1


def test_generation_goes_on():
    model = make()
    dense = copy.deepcopy(model)
    accelerate_(model, IDS, min_speedup=ANY)
    prompt = {"input_ids": torch.tensor([[5, 9, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    tokens = [m.generate(**prompt, max_new_tokens=8, do_sample=False, pad_token_id=0) for m in (dense, model)]
    assert torch.equal(*tokens)
