"""What prune_ considers, what it leaves alone and why (traps 2 and 3)."""

import json
import warnings

import pytest
import torch
from torch import nn

from prunus.allocation import OWL, Sensitivity
from prunus.families import blocks, weight_matrix
from prunus.masks import select
from prunus.methods import Magnitude, Random, SparseGPT, Taylor, Wanda
from prunus.patterns import NM, Block, Unstructured
from prunus.prune import prune_

PATTERNS = [
    Unstructured(0.5),
    Unstructured(0.5, scope="row"),
    Unstructured(0.5, scope="column"),
    Unstructured(0.5, scope="model"),
    NM(2, 4),
    Block((4, 4), 0.5),
]


def zeros(weight: torch.Tensor) -> int:
    return int((weight == 0).sum())


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_half_of_every_model_goes(model, pattern):
    report = prune_(model, pattern)
    assert report.summary["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert report.summary["zeros"] == sum(zeros(model.get_submodule(name).weight) for name in report.pruned)
    assert report.summary["layers"] == len(report.pruned)


def test_default_takes_the_blocks_only(build):
    report = prune_(build("bert"), Unstructured(0.5))
    assert len(report.pruned) == 12
    assert all(name.startswith("encoder.layer.") for name in report.pruned)
    assert report.skipped["pooler.dense"] == "outside the blocks"
    assert report.skipped["embeddings.word_embeddings"] == "embedding"


def test_filter_fn_decides_alone(build):
    seen = []

    def only(module, name):
        seen.append((type(module).__name__, name))
        return name == "pooler.dense"

    model = build("bert")
    assert prune_(model, Unstructured(0.5), filter_fn=only).pruned == ["pooler.dense"]
    assert ("Linear", "encoder.layer.0.attention.self.query") in seen
    assert zeros(model.encoder.layer[0].output.dense.weight) == 0


def test_every_weight_is_in_the_report(model):
    report = prune_(model, Unstructured(0.5))
    names = {row["name"] for row in report.rows} | set(" ".join(r["note"] for r in report.rows).split())
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            assert name in names or name.removesuffix(".weight") in names
    total = {id(p): p.numel() for p in model.parameters() if p.dim() >= 2}
    assert sum(row["weights"] for row in report.rows) == sum(total.values())
    exported = json.loads(report.to_json())
    assert exported["summary"]["zeros"] == report.summary["zeros"]
    assert "pruned" in str(report)


def test_conv1d_is_transposed(build):
    model = build("gpt2")
    conv = model.transformer.h[0].mlp.c_fc  # stored (16, 64): 16 inputs, 64 outputs
    expected = select(conv.weight.detach().t().abs().contiguous(), NM(2, 4))
    prune_(model, NM(2, 4))
    assert torch.equal(weight_matrix(conv) != 0, expected)
    groups = weight_matrix(conv).reshape(64, 4, 4)
    assert bool(((groups != 0).sum(-1) == 2).all())


def test_fused_projections_have_a_budget_per_part(build):
    model = build("gpt2")
    fused = model.transformer.h[0].attn.c_attn
    with torch.no_grad():
        fused.weight[:, :16] *= 100.0  # large queries must not starve keys and values
    prune_(model, Unstructured(0.5))
    parts = weight_matrix(fused).split(16)
    assert [zeros(part) for part in parts] == [128, 128, 128]


def test_gate_and_up_in_one_weight_have_a_budget_each():
    from transformers import Phi3Config, Phi3ForCausalLM

    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
    model = Phi3ForCausalLM(Phi3Config(**sizes, num_hidden_layers=1, vocab_size=60, pad_token_id=0))
    layer = model.model.layers[0]
    with torch.no_grad():
        layer.mlp.gate_up_proj.weight[:32] *= 100.0
        layer.self_attn.qkv_proj.weight[:16] *= 100.0
    prune_(model, Unstructured(0.5))
    assert [zeros(part) for part in layer.mlp.gate_up_proj.weight.split(32)] == [256, 256]
    queries_keys_values = layer.self_attn.qkv_proj.weight.split(
        [16, 8, 8]
    )  # grouped: fewer keys than queries
    assert [zeros(part) for part in queries_keys_values] == [128, 64, 64]


def test_a_tied_head_is_left_alone_and_stays_tied(build):
    model = build("gpt2")
    report = prune_(model, Unstructured(0.5))
    assert report.skipped["lm_head"] == "shared with transformer.wte"
    assert zeros(model.lm_head.weight) == 0
    report = prune_(model, Unstructured(0.5), filter_fn=lambda m, name: name == "lm_head")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert report.summary["weights"] == model.lm_head.weight.numel()
    assert report.rows[0]["note"] == "shared with transformer.wte"


@pytest.mark.parametrize("one_object", [True, False])
def test_shared_weights_are_pruned_and_counted_once(one_object):
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8))
    model[1].weight = model[0].weight if one_object else nn.Parameter(model[0].weight.detach())
    report = prune_(model, Unstructured(0.5), Random(steps=2))
    assert report.pruned == ["0", "2"]
    assert report.summary["weights"] == 128
    assert report.summary["zeros"] == 64
    assert report.rows[0]["note"] == "shared with 1"
    assert model[1].weight.data_ptr() == model[0].weight.data_ptr()


def test_shapes_that_n_m_does_not_divide_are_skipped_with_a_reason():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    report = prune_(model, NM(2, 4))
    assert report.pruned == ["1"]
    assert report.skipped["0"] == "6 inputs are not a multiple of 4"


def test_weights_that_are_not_linear_are_named():
    model = nn.Module()
    model.experts = nn.Parameter(torch.ones(2, 4, 4))
    model.conv = nn.Conv2d(1, 2, 3)
    model.attention = nn.MultiheadAttention(8, 2)
    report = prune_(model, Unstructured(0.5))
    assert report.pruned == ["attention.out_proj"]
    assert set(report.skipped) == {"experts", "conv", "attention.in_proj_weight"}


def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
    config = MixtralConfig(**sizes, num_hidden_layers=1, vocab_size=60, num_local_experts=4)
    return MixtralForCausalLM(config).eval()


EXPERTS = "model.layers.0.mlp.experts"


@pytest.mark.parametrize("method", [Magnitude(), Magnitude("column", steps=2), Random()], ids=str)
def test_every_expert_has_a_budget_of_its_own(method):
    model = mixtral()
    experts = model.model.layers[0].mlp.experts
    with torch.no_grad():
        experts.gate_up_proj[:, :32] *= 100.0
        experts.down_proj[2] *= 100.0
    before = {name: parameter.clone() for name, parameter in experts.named_parameters()}
    report = prune_(model, Unstructured(0.5), method)
    assert {f"{EXPERTS}.{key}.{i}" for key in before for i in range(4)} <= set(report.pruned)
    assert [zeros(part) for expert in experts.gate_up_proj for part in expert.split(32)] == [256] * 8
    assert [zeros(expert) for expert in experts.down_proj] == [256] * 4
    for name, parameter in experts.named_parameters():
        assert torch.equal(parameter[parameter != 0], before[name][parameter != 0])
    assert report.skipped["lm_head"] == "outside the blocks"  # also where the experts are most of the model
    assert report.summary["zeros"] == sum(row["zeros"] for row in report.rows if "zeros" in row)


def gpt_oss():
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
    model = GptOssForCausalLM(
        GptOssConfig(**sizes, num_hidden_layers=1, vocab_size=60, num_local_experts=4, head_dim=4)
    )
    with torch.no_grad():
        for parameter in model.model.layers[0].mlp.experts.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model.eval()


def test_experts_that_are_stored_transposed_and_alternating():
    model = gpt_oss()
    experts = model.model.layers[0].mlp.experts
    with torch.no_grad():
        experts.gate_up_proj[..., ::2] *= 100.0  # columns alternate between gate and up
    prune_(model, NM(2, 4))
    groups = experts.gate_up_proj.view(4, 4, 4, 64)  # of four neighbouring inputs
    assert bool(((groups != 0).sum(2) == 2).all())
    model_rows = prune_(model, Unstructured(0.75)).pruned
    assert f"{EXPERTS}.gate_up_proj.0" in model_rows
    assert [zeros(experts.gate_up_proj[..., i::2]) for i in (0, 1)] == [4 * 384, 4 * 384]


def test_experts_that_cannot_be_called_are_skipped_by_methods_that_look_at_more_than_weights():
    batch = {"input_ids": torch.arange(60).view(4, 15)}
    for method in (Wanda(), Magnitude(repair=True), Taylor(lambda m, b: m(**b, labels=b["input_ids"]).loss)):
        report = prune_(gpt_oss(), Unstructured(0.5), method, batch)
        reason = report.skipped[f"{EXPERTS}.down_proj.3"]
        assert reason.startswith("experts with down_proj_bias, gate_up_proj_bias beside or instead of")
        assert reason.endswith(": only methods that look at the weight alone reach them")
        assert "model.layers.0.self_attn.q_proj" in report.pruned


def test_a_filter_may_choose_one_expert():
    model = mixtral()
    before = model.model.layers[0].mlp.experts.down_proj.clone()
    only = prune_(model, Unstructured(0.5), filter_fn=lambda module, name: name.endswith("down_proj.1"))
    assert only.pruned == [f"{EXPERTS}.down_proj.1"]
    after = model.model.layers[0].mlp.experts.down_proj
    assert [i for i in range(4) if not torch.equal(before[i], after[i])] == [1]


def test_fused_weights_of_unknown_families_are_noted():
    from transformers import MptConfig, MptForCausalLM

    sizes = {"d_model": 16, "n_heads": 4, "n_layers": 1, "vocab_size": 60, "tie_word_embeddings": False}
    model = MptForCausalLM(MptConfig(**sizes))
    rows = {row["name"].rpartition(".")[2]: row for row in prune_(model, Unstructured(0.5)).rows}
    assert rows["Wqkv"]["status"] == "pruned"
    assert rows["Wqkv"]["note"] == "fused, and of no known family: its parts share one budget"
    assert rows["up_proj"]["note"] == ""
    assert rows["lm_head"]["note"] == "outside the blocks"


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        (Magnitude(), Unstructured(0.5)),
        (SparseGPT(), Unstructured(0.5, scope="row")),
        (Wanda(repair=True), NM(2, 4)),
        (Wanda(), OWL(Unstructured(0.5))),
        (Wanda(), Sensitivity(Unstructured(0.5), levels=(0.25, 0.5))),
    ],
    ids=str,
)
def test_parts_that_alternate_head_by_head_have_a_budget_each(method, pattern):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 60}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, num_hidden_layers=1)).eval()
    fused = model.gpt_neox.layers[0].attention.query_key_value.weight
    heads = fused.detach().view(4, 3, 4, 16)  # head, part, row of the head
    heads[:, 0] *= 100.0
    before = heads.clone()
    report = prune_(model, pattern, method, {"input_ids": torch.arange(60).view(4, 15)})
    assert [row["note"] for row in report.rows if row["name"].endswith("query_key_value")] == [""]
    kept = [128 - zeros(heads[:, part]) + 128 for part in range(3)]
    if isinstance(pattern, (Unstructured, NM)):
        assert kept == [128, 128, 128]
    else:
        assert all(0 < count < 256 for count in kept)
    if type(method) is Wanda and not method.repair:
        assert torch.equal(heads[heads != 0], before[heads != 0])


def test_zero_targets_is_an_error():
    with pytest.raises(ValueError, match=r"^model: expected at least one Linear or Conv1D.*got none$"):
        prune_(nn.ReLU(), Unstructured(0.5))
    with pytest.raises(ValueError, match=r"0: left out by filter_fn"):
        prune_(nn.Sequential(nn.Linear(2, 2)), Unstructured(0.5), filter_fn=lambda module, name: False)


def test_unfit_weights_are_skipped_with_a_reason():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, device="meta"), nn.LazyLinear(3), nn.Linear(0, 3))
    model.append(nn.Linear(2, 2))
    model[4].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.float8_e4m3fn), requires_grad=False)
    report = prune_(model, Unstructured(0.5))
    assert report.pruned == ["0"]
    assert report.skipped["1"] == "on the meta device"
    assert report.skipped["2"] == "not initialised"
    assert report.skipped["3"] == "weight of shape (3, 0)"
    assert report.skipped["4"] == "dtype torch.float8_e4m3fn"


def test_a_pattern_per_layer(build):
    model = build("plain")
    report = prune_(model, {"1": Unstructured(0.25), "3": NM(1, 4)})
    assert [row["sparsity"] for row in report.rows[:2]] == [0.25, 0.75]
    assert report.skipped["5"] == "no pattern given for it"
    with pytest.raises(ValueError, match="pattern: expected names of layers of the model, got nowhere"):
        prune_(model, {"nowhere": NM(1, 4)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_pruned_as_they_are(dtype, build):
    model = build("bert").to(dtype)
    weight = model.encoder.layer[1].output.dense.weight
    expected = select(weight.detach().abs(), Unstructured(0.6))
    old = weight.detach().clone()
    prune_(model, Unstructured(0.6))
    assert weight.dtype == dtype
    assert torch.equal(weight, old * expected)


def test_an_already_sparse_weight_keeps_its_zeros(build):
    model = build("plain")
    prune_(model, Unstructured(0.5), Random(seed=1))
    before = [m.weight == 0 for m in model if isinstance(m, nn.Linear)]
    for method in (Magnitude(), Magnitude("row"), Random(seed=2)):
        report = prune_(model, Unstructured(0.75), method)
        after = [m.weight == 0 for m in model if isinstance(m, nn.Linear)]
        assert all(bool((new | ~old).all()) for new, old in zip(after, before, strict=True))
        assert report.summary["sparsity"] == 0.75


def test_global_budget_is_one_selection_over_the_model(build):
    model = build("plain")
    with torch.no_grad():
        model[3].weight *= 1e6
    everything = torch.cat([m.weight.detach().flatten() for m in model if isinstance(m, nn.Linear)])
    limit = everything.abs().sort().values[len(everything) // 2 - 1]
    report = prune_(model, Unstructured(0.5, scope="model"))
    assert zeros(model[3].weight) == 0
    assert report.summary["zeros"] == len(everything) // 2
    assert all(m.weight[m.weight != 0].abs().min() > limit for m in model if isinstance(m, nn.Linear))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((None, NM(2, 4)), TypeError, "model: expected a torch.nn.Module, got NoneType"),
        (
            (nn.Linear(4, 4), 0.5),
            TypeError,
            "pattern: expected Unstructured, NM, Block or an Allocation, got float",
        ),
        (
            (nn.Linear(4, 4), NM(2, 4), Magnitude),
            TypeError,
            "method: expected a Method .*, got the class Magnitude",
        ),
        ((nn.Linear(4, 4), NM(2, 4), "wanda"), TypeError, "method: expected a Method .*, got str"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        prune_(*arguments)


@pytest.mark.parametrize("method", [Wanda(), SparseGPT(), Magnitude(repair=True)], ids=str)
def test_what_attention_reads_without_calling_it_is_skipped_where_inputs_are_wanted(method):
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    before = model.layers[0].self_attn.out_proj.weight.clone()
    report = prune_(model, Unstructured(0.5), method, [torch.randn(3, 7, 16)])
    assert set(report.pruned) == {f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)}
    reason = "MultiheadAttention reads its weight and never calls it: its inputs are not seen"
    assert report.skipped["layers.0.self_attn.out_proj"] == reason
    assert torch.equal(model.layers[0].self_attn.out_proj.weight, before)
    assert "layers.0.self_attn.out_proj" in prune_(model, Unstructured(0.5)).pruned
    alone = nn.MultiheadAttention(16, 2)
    with pytest.raises(ValueError, match=r"at least one Linear .*out_proj: MultiheadAttention reads"):
        prune_(alone, Unstructured(0.5), method, [(torch.randn(7, 3, 16),) * 3])


class Lora(nn.Module):
    """As peft wraps a Linear."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        self.lora_embedding_A = nn.ParameterDict({"default": torch.ones(4, 4)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


@pytest.mark.parametrize("method", [Magnitude(), Wanda()])
def test_adapters_stay_as_they_are(build, batches, method):
    model = build("llama")
    for block in model.model.layers:
        block.self_attn.q_proj = Lora(block.self_attn.q_proj)
    before = {name: p.clone() for name, p in model.named_parameters() if "lora" in name}
    report = prune_(model, Unstructured(0.5), method, batches)
    assert "model.layers.0.self_attn.q_proj.base_layer" in report.pruned
    assert not [name for name in report.pruned if "lora" in name]
    reason = "part of a low-rank adapter (LoRA), which stays as it is"
    prefix = "model.layers.1.self_attn.q_proj"
    for part in ("lora_A.default", "lora_B.default", "lora_embedding_A.default"):
        assert report.skipped[f"{prefix}.{part}"] == reason
    assert all(torch.equal(model.get_parameter(name), p) for name, p in before.items())
    chosen = prune_(model, Unstructured(0.5), filter_fn=lambda m, name: name.endswith("lora_A.default"))
    assert len(chosen.pruned) == 2


def t5() -> nn.Module:
    from transformers import T5Config, T5Model

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 60}
    return T5Model(T5Config(**sizes))


def clip() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    picture = {**sizes, "image_size": 8, "patch_size": 4}
    return CLIPModel(
        CLIPConfig(text_config=sizes | {"vocab_size": 60}, vision_config=picture, projection_dim=8)
    )


def bart() -> nn.Module:
    from transformers import BartConfig, BartModel

    sizes = {"encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartModel(BartConfig(d_model=16, vocab_size=60, **sizes, **heads))


STACKS = {
    "t5": (t5, ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]),
    "clip": (clip, [f"{kind}_model.encoder.layers.{i}" for kind in ("text", "vision") for i in (0, 1)]),
    "bart": (bart, ["encoder.layers.0", "encoder.layers.1", "decoder.layers.0"]),
    "transformer": (
        lambda: nn.Transformer(16, 2, 1, 2, 32),
        ["encoder.layers.0", "decoder.layers.0", "decoder.layers.1"],
    ),
}


@pytest.mark.parametrize("kind", STACKS)
def test_every_stack_of_a_model_is_pruned(kind):
    make, expected = STACKS[kind]
    model = make()
    assert list(blocks(model)) == expected
    report = prune_(model, Unstructured(0.5))
    for block in expected:
        for name, module in model.get_submodule(block).named_modules():
            if isinstance(module, nn.Linear):
                assert f"{block}.{name}" in report.pruned
    every = sum(p.numel() for p in model.parameters())
    assert report.summary["reached"] == report.summary["weights"] / every > 0.1
    assert f"{report.summary['reached']:.1%} of all weights" in str(report)


def test_statistics_of_an_encoder_and_a_decoder():
    """Each block has its own place, though the decoder does not begin with the encoder's output."""
    torch.manual_seed(0)
    model, ids = t5().eval(), torch.randint(1, 60, (3, 10))
    report = prune_(model, Unstructured(0.5), Wanda(), {"input_ids": ids, "decoder_input_ids": ids})
    assert report.summary["sparsity"] == 0.5
    assert any(name.startswith("encoder.block.1") for name in report.pruned)


class Ends(nn.Module):
    """A stack, heads that are none, and a large list of things that differ."""

    def __init__(self, middle):
        super().__init__()
        block = [nn.TransformerEncoderLayer(16, 2, 32) for _ in range(2)]
        self.layers = nn.ModuleList(block)
        self.heads = nn.ModuleList([nn.Linear(16, 16) for _ in range(8)])
        self.middle = nn.ModuleList(middle)


def test_a_list_that_is_left_out_is_a_warning():
    sentence = r"prune_ left heads as it is: no list of blocks that it knows"
    with pytest.warns(UserWarning, match=sentence):
        report = prune_(Ends([]), Unstructured(0.5))
    assert report.skipped["heads.0"] == "outside the blocks"
    assert all(name.startswith("layers.") for name in report.pruned)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Ends([nn.Linear(16, 4)])
        model.heads = None
        prune_(model, Unstructured(0.5))
