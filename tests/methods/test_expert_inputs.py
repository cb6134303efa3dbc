"""Methods that look at inputs and gradients see those of each expert: its own tokens, without padding."""

import copy

import pytest
import torch
from torch.testing import assert_close

from prunus import OWL, Magnitude, SparseGPT, Taylor, Unstructured, Wanda, prune_
from prunus.calibration.experts import called_experts
from prunus.calibration.recorder import Recorder
from prunus.calibration.stats import Stats

transformers = pytest.importorskip("transformers")

COUNT, HIDDEN, WIDTH = 4, 16, 32
EXPERTS = "model.layers.0.mlp.experts"
MASK = torch.ones(4, 15, dtype=torch.long)
MASK[1, 9:] = MASK[2, :6] = 0
BATCH = {"input_ids": torch.arange(60).view(4, 15), "attention_mask": MASK}


def make(kind="mixtral"):
    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 60}
    sizes |= {"num_hidden_layers": 2, "initializer_range": 0.3}
    if kind == "mixtral":
        config = transformers.MixtralConfig(**sizes, intermediate_size=WIDTH, num_local_experts=COUNT)
        return transformers.MixtralForCausalLM(config).eval()
    config = transformers.Qwen3MoeConfig(
        **sizes, moe_intermediate_size=WIDTH, num_experts=COUNT, num_experts_per_tok=2, head_dim=4
    )
    return transformers.Qwen3MoeForCausalLM(config).eval()


def experts_of(model):
    return model.model.layers[0].mlp.experts


def inputs_of(model, batch, real):
    """Name -> rows that each matrix of the first block multiplies with, as the words of the model say it."""
    found = {}

    def see(module, args):
        x, chosen, _ = args
        for expert in range(COUNT):
            asked = chosen.eq(expert).any(-1) & real.reshape(-1)
            gate, up = (x[asked] @ module.gate_up_proj[expert].t()).chunk(2, -1)
            found[f"{EXPERTS}.gate_up_proj.{expert}"] = x[asked]
            found[f"{EXPERTS}.down_proj.{expert}"] = module.act_fn(gate) * up

    handle = experts_of(model).register_forward_pre_hook(see)
    with torch.no_grad():
        model(**batch)
    handle.remove()
    return found


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
@pytest.mark.parametrize("padded", [True, False])
def test_statistics_are_of_the_tokens_that_asked(kind, padded):
    model = make(kind)
    batch = BATCH if padded else {"input_ids": BATCH["input_ids"]}
    real = MASK.bool() if padded else torch.ones(4, 15, dtype=torch.bool)
    expected, before = inputs_of(model, batch, real), experts_of(model)
    with called_experts(model) as layers, torch.no_grad():
        recorder = Recorder({name: [layers[name]] for name in expected}, frozenset({"sumsq", "gram"}))
        recorder.real = real if padded else None
        with recorder:
            model(**batch)
    assert experts_of(model) is before
    for name, stats in recorder.check().items():
        assert stats.tokens == len(expected[name])
        x = expected[name].double()
        assert_close(stats.sumsq, x.square().sum(0), rtol=1e-4, atol=1e-6)
        assert_close(stats.gram.double(), x.t() @ x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
def test_wanda_prunes_each_expert_by_its_own_inputs(kind):
    model, pattern = make(kind), Unstructured(0.5)
    seen, before = inputs_of(model, BATCH, MASK.bool()), copy.deepcopy(model.state_dict())
    report = prune_(model, pattern, Wanda(), BATCH)
    assert set(seen) <= set(report.pruned)
    for name, x in seen.items():
        key, _, expert = name.rpartition(".")
        dense, pruned = before[key][int(expert)], model.state_dict()[key][int(expert)]
        stats = Stats(name, len(x), x.double().square().sum(0))
        for part in (slice(0, WIDTH), slice(WIDTH, None)) if "gate_up" in key else (slice(None),):
            mask, _ = Wanda().prune(dense[part], stats, pattern)
            assert torch.equal(pruned[part], dense[part] * mask)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        (SparseGPT(), Unstructured(0.5)),
        (Wanda(repair=True), Unstructured(0.5)),
        (Wanda(), OWL(Unstructured(0.5))),
        (Taylor(lambda model, batch: model(**batch, labels=batch["input_ids"]).loss), Unstructured(0.5)),
    ],
    ids=str,
)
def test_every_method_reaches_the_experts(kind, method, pattern):
    model = make(kind)
    modules = [(name, id(module)) for name, module in model.named_modules()]
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    report = prune_(model, pattern, method, BATCH)
    assert {f"{EXPERTS}.{key}.{i}" for key in ("gate_up_proj", "down_proj") for i in range(COUNT)} <= set(
        report.pruned
    )
    assert [(name, id(module)) for name, module in model.named_modules()] == modules
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
    assert all(p.grad is None for p in model.parameters())
    zeros = (experts_of(model).down_proj == 0).float().mean((1, 2))
    assert bool((zeros > 0.2).all())
    assert report.summary["zeros"] == sum(row["zeros"] for row in report.rows if "zeros" in row)


def test_repair_brings_the_answers_nearer():
    errors = []
    for repair in (False, True):
        model = make()
        batch = {"input_ids": BATCH["input_ids"]}
        with torch.no_grad():
            expected = model(**batch).logits
            prune_(model, Unstructured(0.5), Magnitude(repair=repair), batch)
            errors.append(float((model(**batch).logits - expected).norm()))
    assert errors[1] < 0.95 * errors[0]


def test_an_expert_that_no_token_asked_is_named_and_nothing_changes():
    model = make()
    for layer in model.model.layers:  # with positive inputs only the first two experts are asked
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.gate.weight.data[2:] = 0.0
        layer.mlp.gate.weight.data[:2] = 1.0
    model.model.embed_tokens.weight.data.abs_()
    before, experts = copy.deepcopy(model.state_dict()), experts_of(model)
    message = rf"expected every layer to see a token, got none at {EXPERTS}\.gate_up_proj\.2"
    with pytest.raises(ValueError, match=message):
        prune_(model, Unstructured(0.5), Wanda(), BATCH)
    assert experts_of(model) is experts
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    others = ("experts.gate_up_proj.0", "experts.down_proj.1")
    report = prune_(model, Unstructured(0.5), Wanda(), BATCH, lambda _, name: name.endswith(others))
    assert [name for name in report.pruned if name.startswith(EXPERTS)] == [
        f"{EXPERTS}.gate_up_proj.0",
        f"{EXPERTS}.down_proj.1",
    ]
