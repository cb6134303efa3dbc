"""In fp64 a model without a group gives what it gave with the group silenced: every family and kind."""

from __future__ import annotations

import copy

import pytest
import torch
from shrink_models import CASES, STAY, batches, gone_groups, make, output, replace_inputs, silence_weights
from torch import nn
from transformers import MPNetConfig, MPNetModel, ViTConfig, ViTModel

from prunus.families import find_stack, weight_matrix
from prunus.shrink import Heads, Neurons, shrink_
from prunus.shrink.groups import sites

KINDS = {"neurons": Neurons, "heads": Heads}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_groups_without_input_weights_cost_nothing(name, kind):
    """They still emit act(bias), or the value bias: it must be in the next bias afterwards."""
    masked = make(name)
    for site in sites(find_stack(masked), kind):
        silence_weights(site, list(range(1, site.count, 2)))
    shrunk = copy.deepcopy(masked)
    report = shrink_(shrunk, KINDS[kind](0.5))
    assert report.summary["importance"] == "weight"
    assert all(row["after"] == row["before"] // 2 for row in report.rows)
    silent = (
        ("mistral", "phi3", "llama", "modernbert", "falcon-one-key", "mixtral", "qwen3-moe"),
        (("qwen2", "neurons"), ("gpt_neox-serial", "heads"), ("gptj", "heads")),
    )
    emits = name not in silent[0] and (name, kind) not in silent[1]
    assert all(bool(row["bias"]) == emits for row in report.rows)
    for batch in batches():
        torch.testing.assert_close(output(shrunk, batch), output(masked, batch), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_with_calibration_mean_activations_equal_removed_groups(name, kind):
    masked, shrunk = make(name), make(name)
    calibration = batches(3, seed=1)
    shrink_(shrunk, KINDS[kind](0.5), calibration)
    found = sites(find_stack(masked), kind)
    means = [inputs_of(masked, site, calibration).mean(0) for site in found]
    for site, after, mean in zip(found, sites(find_stack(shrunk), kind), means, strict=True):
        replace_inputs(site, gone_groups(site, after), mean)
    for batch in batches(seed=2):
        torch.testing.assert_close(output(shrunk, batch), output(masked, batch), rtol=0, atol=1e-10)


def inputs_of(model, site, calibration):
    """Inputs of the output projection at the tokens that are no padding, one by one."""
    seen = []
    handle = site.out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        rows = []
        for batch in calibration:
            seen.clear()
            with torch.no_grad():
                model(**batch)
            real = batch["attention_mask"].bool().flatten()
            rows += [x.reshape(-1, x.shape[-1])[real] for x in seen]  # a shared block is called several times
        return torch.cat(rows)
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_without_compensation_silenced_activations_equal_removed_groups(kind):
    masked, shrunk = make("bert"), make("bert")
    report = shrink_(shrunk, KINDS[kind](0.5, compensate="none"), batches())
    assert {row["bias"] for row in report.rows} == {""}
    for before, after in zip(sites(find_stack(masked), kind), sites(find_stack(shrunk), kind), strict=True):
        weight_matrix(before.out)[:, before.columns(torch.tensor(gone_groups(before, after)))] = 0
    batch = batches(seed=3)[0]
    torch.testing.assert_close(output(shrunk, batch), output(masked, batch), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_live_groups_have_no_known_constant(kind):
    model = make("bert")
    assert {row["bias"] for row in shrink_(model, KINDS[kind](0.5)).rows} == {""}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "albert"])
def test_weight_compensation_is_the_least_squares_answer(name, kind):
    model, shrunk = make(name), make(name)
    calibration = batches(8, seed=1)
    shrink_(shrunk, KINDS[kind](0.5, compensate="weight"), calibration)
    for site, after in zip(sites(find_stack(model), kind), sites(find_stack(shrunk), kind), strict=True):
        rows = inputs_of(model, site, calibration)
        slot, shrunk_slot = (s.slot("v" if kind == "heads" else "up") for s in (site, after))
        kept = site.columns(kept_groups(slot, shrunk_slot, site.count, after.count))
        centred = rows - rows.mean(0)
        design = torch.cat([centred[:, kept], torch.zeros(kept.numel(), kept.numel())])
        ridge = (0.01 * centred[:, kept].square().sum(0)).sqrt()
        design[len(rows) :] = torch.diag(ridge)
        old = weight_matrix(site.out)
        target = torch.cat([centred @ old.T, ridge[:, None] * old[:, kept].T])
        best = torch.linalg.lstsq(design, target).solution.T
        torch.testing.assert_close(weight_matrix(after.out), best, rtol=0, atol=1e-3 * old.abs().max())
        bias = 0 if site.out.bias is None else site.out.bias
        expected = (rows @ old.T + bias).mean(0)
        got = (rows[:, kept] @ weight_matrix(after.out).T + after.out.bias).mean(0)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def kept_groups(slot, shrunk_slot, before, after):
    """Which groups stay, found by their input weights."""
    old = weight_matrix(slot.module)[slot.start : slot.start + before * slot.per].reshape(before, -1)
    new = weight_matrix(shrunk_slot.module)[shrunk_slot.start : shrunk_slot.start + after * slot.per]
    return torch.tensor([g for g in range(before) if (old[g] == new.reshape(after, -1)).all(1).any()])


def test_vision_models_are_cut_too():
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**config, image_size=16, patch_size=8)).eval().double()
    pixels = [{"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)} for _ in range(3)]
    assert find_stack(model).family.name == "vit"
    for kind, cut in KINDS.items():
        masked, shrunk = copy.deepcopy(model), copy.deepcopy(model)
        for site in sites(find_stack(masked), kind):
            silence_weights(site, list(range(1, site.count, 2)))
            silence_weights(sites(find_stack(shrunk), kind)[site.index], list(range(1, site.count, 2)))
        shrink_(shrunk, cut(0.5))
        with torch.no_grad():
            expected, found = (m(**pixels[0]).last_hidden_state for m in (masked, shrunk))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name, kind in STAY.items() if kind == "heads"])
def test_what_stays_is_refused_or_left_with_a_sentence(name):
    model, before = make(name), output(make(name), batches()[0])
    if name == "falcon-one-key":
        report = shrink_(model, Heads(0.5))
        assert {(row["before"], row["after"]) for row in report.rows} == {(1, 1)}
    else:
        with pytest.raises(ValueError, match=r"heads of \w+ models stay: the slope of each \(ALiBi\)"):
            shrink_(model, Heads(0.5))
    assert torch.equal(output(model, batches()[0]), before)


def test_heads_that_the_model_counts_elsewhere_stay():
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = MPNetModel(MPNetConfig(**config, vocab_size=97)).eval()
    with pytest.raises(ValueError, match=r"heads of mpnet models stay: .* position bias per head"):
        shrink_(model, Heads(0.5))
    assert all(row["after"] == 24 for row in shrink_(model, Neurons(0.5)).rows)
    with torch.no_grad():
        assert model(torch.arange(5, 11)[None]).last_hidden_state.shape == (1, 6, 32)


def test_a_number_per_head_that_no_family_names_is_refused():
    """As the attention sinks of gpt-oss."""
    model = make("llama")
    model.model.layers[1].self_attn.sinks = nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match=r"expected no other weights of width 4, got sinks"):
        shrink_(model, Heads(0.5))
