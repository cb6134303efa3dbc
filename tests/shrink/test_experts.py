"""Neurons of the experts of a mixture: each expert loses as many, by its own importance."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from shrink_models import LAYERS, WIDTH, batches, make, output, silence_weights
from torch import nn
from torch.testing import assert_close

import prunus
from prunus.families import find_stack, weight_matrix
from prunus.shrink import Heads, Layers, Neurons, apply_geometry_, geometry, shrink_
from prunus.shrink.groups import sites

NAMES = ("mixtral", "qwen3-moe")
EXPERTS = 3


def neurons(model):
    return sites(find_stack(model), "neurons")


@pytest.mark.parametrize("name", NAMES)
def test_neurons_without_weights_cost_nothing(name):
    masked, width = make(name), WIDTH
    for site in neurons(masked):  # others in every expert
        silence_weights(site, [(2 * i + site.expert) % width for i in range(width // 2)])
    shrunk = copy.deepcopy(masked)
    report = shrink_(shrunk, Neurons(0.5))
    assert {(row["before"], row["after"], row["bias"]) for row in report.rows} == {(width, width // 2, "")}
    assert len(report.rows) == LAYERS * EXPERTS
    assert report.rows[4]["layer"] == "model.layers.1.mlp.experts.down_proj.1"
    assert report.summary["config"] == ""
    before, after = (sum(p.numel() for p in model.parameters()) for model in (masked, shrunk))
    gone = sum(row["parameters_before"] - row["parameters_after"] for row in report.rows)
    assert before - after == gone == LAYERS * EXPERTS * 3 * 32 * width // 2
    for batch in batches():
        assert_close(output(shrunk, batch), output(masked, batch), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_activation_importance_is_what_the_output_loses(name):
    """The mean square of a neuron's part in the answer of its expert, at the tokens that ask it."""
    model, calibration, width = make(name), batches(3, seed=1), WIDTH
    found, sums = neurons(model), {}
    for index, block in enumerate(find_stack(model).layers):

        def see(module, args, index=index):
            x, chosen, shares = args
            real = batch["attention_mask"].bool().flatten()
            for token in real.nonzero().flatten().tolist():
                for expert, share in zip(chosen[token].tolist(), shares[token], strict=True):
                    gate, up = (module.gate_up_proj[expert] @ x[token]).chunk(2)
                    energy = module.down_proj[expert].square().sum(0)
                    part = (share * nn.functional.silu(gate) * up).square() * energy
                    sums[index, expert] = sums.get((index, expert), 0) + part.detach()

        block.mlp.experts.register_forward_pre_hook(see)
    for batch in calibration:
        output(model, batch)
    expected = [sums[site.index, site.expert].sort().indices[width // 4 :].sort().values for site in found]
    fresh = make(name)
    shrink_(fresh, Neurons(0.25), calibration)
    for site, after, kept in zip(found, neurons(fresh), expected, strict=True):
        assert torch.equal(weight_matrix(after.out), weight_matrix(site.out)[:, kept])
        both = torch.cat([kept, width + kept])
        assert torch.equal(weight_matrix(after.slots[0].module), weight_matrix(site.slots[0].module)[both])


@pytest.mark.parametrize("name", NAMES)
def test_cached_generation_saving_and_loading(name, tmp_path):
    model = make(name, dtype=torch.float32)
    model.save_pretrained(tmp_path / "dense")
    shrink_(model, Neurons(0.3), batches())
    shrink_(model, Layers([1]))
    prompt = {"input_ids": torch.tensor([[5, 9, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.no_grad():
        cached, plain = (
            model.generate(**prompt, max_new_tokens=5, do_sample=False, use_cache=use)
            for use in (True, False)
        )
    assert torch.equal(cached, plain)
    batch = batches(seed=4)[0]
    prunus.save(model, tmp_path / "m.safetensors")
    fresh = prunus.load(make(name, seed=1, dtype=torch.float32), tmp_path / "m.safetensors")
    assert torch.equal(output(fresh, batch), output(model, batch))
    assert geometry(fresh) == geometry(model)
    stack, same = find_stack(model), find_stack(fresh)
    assert (
        [same.number(key) for key in ("layers", "width")] == [LAYERS - 1, stack.number("width")] != [2, WIDTH]
    )
    model.save_pretrained(tmp_path / "ordinary")
    opened, info = type(model).from_pretrained(tmp_path / "ordinary", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    opened.set_experts_implementation("eager")
    assert_close(output(opened.eval(), batch), output(model, batch), rtol=1e-4, atol=1e-5)
    shrink_(model, Heads(0.5), batches())
    prunus.checkpoint.write_pretrained(model, tmp_path / "dense", tmp_path / "own")
    loaded = prunus.load_pretrained(tmp_path / "own")
    loaded.set_experts_implementation("eager")
    assert_close(output(loaded, batch), output(model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_the_other_products_of_experts(implementation):
    model = make("mixtral", dtype=torch.float32)
    shrink_(model, Neurons(0.5), batches())
    expected = output(model, batches(seed=4)[0])
    model.set_experts_implementation(implementation)
    assert_close(output(model, batches(seed=4)[0]), expected, rtol=1e-3, atol=1e-4)


def test_geometry_before_experts_were_counted_still_fits():
    shape = json.loads(json.dumps(geometry(make("mixtral"))))
    for block in shape["stacks"][0]["blocks"]:
        assert block["neurons"] == WIDTH
        del block["neurons"], block["neurons_bias"]
    apply_geometry_(make("mixtral"), shape)


REFUSED = {
    "scope": (Neurons(0.5, scope="model"), r"scope: expected 'layer' for the experts of model\.layers\.0\."),
    "gradient": (Neurons(0.5, importance="gradient"), r"importance: expected 'weight' or 'activation' for"),
    "weight": (Neurons(0.5, compensate="weight"), r"compensate: expected 'bias' or 'none' for the experts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    what, message = REFUSED[case]
    model = make("mixtral")
    before = [id(p) for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        shrink_(model, what, batches())
    assert [id(p) for p in model.parameters()] == before


def test_an_expert_that_no_token_asks_is_named():
    model = make("mixtral")
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.gate.weight[2] = 0
            block.post_attention_layernorm.weight.fill_(1)
    one = batches(1, rows=1, length=1)
    with pytest.raises(
        ValueError, match=r"calibration: model\.layers\.\d\.mlp\.experts\.down_proj\.\d saw no"
    ):
        shrink_(model, Neurons(0.5), one)


def test_experts_with_more_than_two_parameters_are_refused():
    model = make("mixtral")
    model.model.layers[1].mlp.experts.down_proj_bias = nn.Parameter(torch.zeros(EXPERTS, 32))
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.experts: expected the parameters .*, got .*_bias"):
        shrink_(model, Neurons(0.5))
