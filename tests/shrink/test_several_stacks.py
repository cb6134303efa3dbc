"""Models with several stacks of blocks: every verb works on all of them, each with a budget of its own."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from shrink_models import HEADS, LAYERS, WIDTH, gone_groups, replace_inputs, silence_weights
from stack_models import CASES, GENERATE, MODELS, batches, make, output, real_of
from torch.testing import assert_close

import prunus
from prunus.families import stacks, weight_matrix
from prunus.shrink import Heads, Layers, Neurons, apply_geometry_, geometry, shrink_
from prunus.shrink.groups import kinds, sites

KINDS = {"neurons": Neurons, "heads": Heads}
# Without biases where those of silent groups would go.
SILENT = {"t5", "t5-gated"}


def sites_of(model, kind):
    """Of all stacks, the heads of cross-attention too, in the order of the report."""
    return [
        site
        for stack in stacks(model)
        for found in kinds(stack.family)
        if (found == "neurons") == (kind == "neurons")
        for site in sites(stack, found)
    ]


def inputs_of(name, model, site, calibration):
    """Inputs of the output projection at the tokens of its stack that are no padding, one by one."""
    seen, rows = [], []
    handle = site.out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for batch in calibration:
        seen.clear()
        output(model, batch)
        real = real_of(name, site.stack.name, batch)
        rows += [x.flatten(0, 1) if real is None else x[real] for x in seen]
    handle.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("name", MODELS)
def test_every_stack_is_found(name):
    assert tuple(stack.family.name for stack in stacks(make(name))) == MODELS[name][3]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_groups_without_input_weights_cost_nothing(name, kind):
    masked = make(name)
    for site in sites_of(masked, kind):
        silence_weights(site, list(range(1, site.count, 2)))
    shrunk = copy.deepcopy(masked)
    report = shrink_(shrunk, KINDS[kind](0.5))
    assert [row["layer"] for row in report.rows] == [site.name for site in sites_of(masked, kind)]
    assert all(row["after"] == row["before"] // 2 for row in report.rows)
    assert all(bool(row["bias"]) == (name not in SILENT) for row in report.rows)
    for batch in batches(name):
        assert_close(output(shrunk, batch), output(masked, batch), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_with_calibration_mean_activations_equal_removed_groups(name, kind):
    masked, shrunk = make(name), make(name)
    calibration = batches(name, 3, seed=1)
    shrink_(shrunk, KINDS[kind](0.5), calibration)
    found = sites_of(masked, kind)
    means = [inputs_of(name, masked, site, calibration).mean(0) for site in found]
    for site, after, mean in zip(found, sites_of(shrunk, kind), means, strict=True):
        replace_inputs(site, gone_groups(site, after), mean)
    for batch in batches(name, seed=2):
        assert_close(output(shrunk, batch), output(masked, batch), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["bart", "clip", "t5-gated"])
def test_weight_compensation_keeps_the_mean_of_every_projection(name):
    """The covariances of a stack are those of its own tokens."""
    model, shrunk = make(name), make(name)
    calibration = batches(name, 6, seed=1)
    shrink_(shrunk, Neurons(0.5, compensate="weight"), calibration)
    for site, after in zip(sites_of(model, "neurons"), sites_of(shrunk, "neurons"), strict=True):
        rows = inputs_of(name, model, site, calibration)
        old, new = weight_matrix(site.out), weight_matrix(after.out)
        up, kept_up = (weight_matrix(s.slot("up").module)[-s.count :] for s in (site, after))
        kept = torch.tensor([i for i in range(site.count) if (up[i] == kept_up).all(1).any()])
        centred = rows - rows.mean(0)
        ridge = torch.diag((0.01 * centred[:, kept].square().sum(0)).sqrt())
        design = torch.cat([centred[:, kept], ridge])
        best = torch.linalg.lstsq(design, torch.cat([centred @ old.T, ridge @ old[:, kept].T])).solution.T
        assert_close(new, best, rtol=0, atol=1e-3 * float(old.abs().max()))
        bias = 0 if site.out.bias is None else site.out.bias
        assert_close((rows[:, kept] @ new.T + after.out.bias).mean(0), (rows @ old.T + bias).mean(0))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_stack(name):
    model = make(name)
    report = shrink_(
        model,
        Heads(0.5, importance="gradient", loss=lambda model, batch: sum_of(model(**batch))),
        batches(name),
    )
    assert {row["after"] for row in report.rows} == {HEADS // 2}


def sum_of(result):
    if "text_embeds" in result:
        return result.text_embeds[:, 0].sum() + result.image_embeds[:, 0].sum()
    return result[0].square().mean()


def test_every_stack_has_a_budget_of_its_own():
    """The neurons of the decoder are worth next to nothing, and half of them stay all the same."""
    model = make("bart")
    with torch.no_grad():
        for block in model.model.decoder.layers:
            block.fc2.weight.mul_(1e-6)
    report = shrink_(model, Neurons(0.5, scope="model"))
    left = {"encoder": 0, "decoder": 0}
    for row in report.rows:
        left["encoder" if ".encoder." in row["layer"] else "decoder"] += row["after"]
    assert left == {"encoder": LAYERS * WIDTH // 2, "decoder": LAYERS * WIDTH // 2}


def head_rows(weight, heads):
    return weight.detach().reshape(heads, -1)


@pytest.mark.parametrize("importance", ["weight", "activation", "gradient"])
def test_the_heads_of_t5_go_in_all_blocks_alike_with_their_position_bias(importance):
    model = make("t5")
    before = [[head_rows(b.layer[0].SelfAttention.v.weight, HEADS) for b in s.layers] for s in stacks(model)]
    tables = [s.layers[0].layer[0].SelfAttention.relative_attention_bias.weight for s in stacks(model)]
    loss = sum_of_output if importance == "gradient" else None
    what = Heads(0.5, importance=importance, loss=loss, compensate="none")
    report = shrink_(model, what, None if importance == "weight" else batches("t5"))
    assert report.summary["config"] == ""
    assert (model.config.num_heads, model.config.d_kv) == (HEADS // 2, 8)
    for stack, old, table in zip(stacks(model), before, tables, strict=True):
        kept = set()
        for block, values in zip(stack.layers, old, strict=True):
            new = head_rows(block.layer[0].SelfAttention.v.weight, HEADS // 2)
            kept.add(tuple(i for i in range(HEADS) if (values[i] == new).all(1).any()))
        (places,) = kept
        assert len(places) == HEADS // 2
        bias = stack.layers[0].layer[0].SelfAttention.relative_attention_bias
        assert torch.equal(bias.weight, table[:, list(places)])
        assert bias.embedding_dim == HEADS // 2


def sum_of_output(model, batch):
    return sum_of(model(**batch))


def test_uneven_heads_of_t5_are_refused():
    model = make("t5")
    with torch.no_grad():
        model.decoder.block[0].layer[1].EncDecAttention.o.weight[:, :16] *= 1e-6
    before = [id(p) for p in model.parameters()]
    with pytest.raises(ValueError, match=r"scope: expected 'layer' for 't5-\w+'"):
        shrink_(model, Heads(0.3, scope="model"))
    assert [id(p) for p in model.parameters()] == before


@pytest.mark.parametrize("name", [name for name in MODELS if name != "albert-groups"])
def test_dropping_a_block_of_every_stack_equals_skipping_it(name):
    model, skipped = make(name), make(name)
    shrink_(model, Layers([1]))
    for stack in stacks(skipped):
        t5 = name.startswith("t5")
        # T5 hands the position biases from block to block.
        stack.layers[1].forward = (
            (lambda hidden, mask, bias, states, states_mask, cross, **_: (hidden, bias, cross))
            if t5
            else (lambda hidden, *_, **__: hidden)
        )
    for batch in batches(name):
        assert_close(output(model, batch), output(skipped, batch), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_the_least_influential_block_of_every_stack_goes(name):
    model = make(name)
    counts = [len(stack.layers) for stack in stacks(model)]
    report = shrink_(model, Layers(1), batches(name))
    assert [len(stack.layers) for stack in stacks(model)] == [count - 1 for count in counts]
    assert all(row["influence"] > 0 for row in report.rows)
    if name.startswith("t5"):
        assert stacks(model)[0].layers[0].layer[0].SelfAttention.has_relative_attention_bias
    assert output(model, batches(name)[0]).isfinite().all()


def test_the_first_block_of_t5_stays():
    model = make("t5")
    with pytest.raises(ValueError, match=r"drop: expected no first block of encoder\.block, got 0: its posi"):
        shrink_(model, Layers([0]))
    assert [len(stack.layers) for stack in stacks(model)] == [LAYERS, LAYERS - 1]


def test_one_stack_alone_is_the_submodule_that_holds_it():
    model = make("bart")
    shrink_(model.model.decoder, Layers([0, 1]))
    assert (model.config.encoder_layers, model.config.decoder_layers) == (LAYERS, 1)
    assert output(model, batches("bart")[0]).isfinite().all()


@pytest.mark.parametrize("target", ["neurons", "heads", "layers"])
@pytest.mark.parametrize("name", GENERATE)
def test_cached_generation_equals_generation_without_a_cache(name, target):
    model = make(name)
    what = Layers([1]) if target == "layers" else KINDS[target](0.5)
    shrink_(model, what, None if target == "layers" else batches(name))
    batch = batches(name, rows=1)[0]
    prompt = {key: value for key, value in batch.items() if not key.startswith("decoder")}
    options = {"max_new_tokens": 6, "do_sample": False, "output_scores": True}
    with torch.no_grad():
        cached, plain = (
            model.generate(**prompt, **options, return_dict_in_generate=True, use_cache=use)
            for use in (True, False)
        )
    assert torch.equal(cached.sequences, plain.sequences)
    assert_close(torch.stack(cached.scores), torch.stack(plain.scores), rtol=0, atol=1e-9)


def shrunk(name, dtype=torch.float64):
    """Uneven widths, fewer heads, one block dropped."""
    model = make(name, dtype=dtype)
    shrink_(model, Neurons(0.4, scope="model"), batches(name, dtype=dtype))
    shrink_(model, Heads(0.5), batches(name, dtype=dtype))
    shrink_(model, Layers([1]))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_model_takes_shape_and_weights(name):
    model, fresh = shrunk(name), make(name, seed=1)
    shape = json.loads(json.dumps(geometry(model)))
    assert [entry["name"] for entry in shape["stacks"]] == [stack.name for stack in stacks(model)]
    before = [id(p) for p in fresh.parameters()]
    undo = apply_geometry_(fresh, shape)
    fresh.load_state_dict(model.state_dict())
    batch = batches(name, seed=4)[0]
    assert torch.equal(output(fresh, batch), output(model, batch))
    assert geometry(fresh) == geometry(model)
    for one, other in zip(stacks(fresh), stacks(model), strict=True):
        assert [c.to_dict() for c in one.configs] == [c.to_dict() for c in other.configs]
    assert fresh.config.to_dict() == model.config.to_dict()
    undo()
    assert [id(p) for p in fresh.parameters()] == before


def test_the_geometry_of_cross_attention_is_checked():
    shape = geometry(make("bart"))
    for wrong in (None, 7):
        shape["stacks"][1]["blocks"][0]["cross"] = wrong
        with pytest.raises(prunus.FormatError, match=r"geometry: expected .*(width of cross|in groups of 8)"):
            apply_geometry_(make("bart"), shape)


def test_data_from_before_cross_attention_was_counted_still_fit():
    model, fresh = make("bart"), make("bart", seed=1)
    shrink_(model, Neurons(0.5))
    shape = geometry(model)
    for block in shape["stacks"][1]["blocks"]:
        del block["cross"], block["cross_bias"]
    apply_geometry_(fresh, shape)
    fresh.load_state_dict(model.state_dict())
    batch = batches("bart")[0]
    assert torch.equal(output(fresh, batch), output(model, batch))


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded(name, tmp_path):
    model, fresh = shrunk(name, torch.float32), make(name, seed=1, dtype=torch.float32)
    prunus.save(model, tmp_path / "m.safetensors")
    prunus.load(fresh, tmp_path / "m.safetensors")
    batch = batches(name, seed=4, dtype=torch.float32)[0]
    assert torch.equal(output(fresh, batch), output(model, batch))
    assert geometry(fresh) == geometry(model)


@pytest.mark.parametrize("name", MODELS)
def test_save_pretrained_writes_what_from_pretrained_opens(name, tmp_path):
    model = make(name, dtype=torch.float32)
    shrink_(model, Neurons(0.4, scope="model", compensate="none"))
    shrink_(model, Heads(0.5, compensate="none"))
    shrink_(model, Layers([1]))
    model.save_pretrained(tmp_path)
    opened, found = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = batches(name, seed=4, dtype=torch.float32)[0]
    assert_close(output(opened.eval(), batch), output(model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_biases_without_a_place_are_refused_and_the_way_that_is_named_works(name, tmp_path):
    model = make(name, dtype=torch.float32)
    model.save_pretrained(tmp_path / "dense")
    shrink_(model, Neurons(0.5), batches(name, dtype=torch.float32))
    batch = batches(name, seed=4, dtype=torch.float32)[0]
    if name == "t5":
        with pytest.raises(
            ValueError, match=r"expected tensors that a T5\w+ has, got .*wo\.bias: .*load_pre"
        ):
            model.save_pretrained(tmp_path / "out")
    prunus.checkpoint.write_pretrained(model, tmp_path / "dense", tmp_path / "own")
    assert torch.equal(output(prunus.load_pretrained(tmp_path / "own"), batch), output(model, batch))


@pytest.mark.parametrize("name", ["t5", "albert-groups"])
def test_a_number_that_stacks_share_is_said_where_all_agree(name):
    width = "d_ff" if name == "t5" else "intermediate_size"
    model = make(name)
    report = shrink_(model, Neurons(0.5))
    assert report.summary["config"] == ""
    configs = [model.config, *(stack.config for stack in stacks(model))]
    assert {getattr(config, width) for config in configs} == {WIDTH // 2}
    inner = stacks(model)[1].layers
    with torch.no_grad():
        weight_matrix(inner[0].get_submodule(stacks(model)[1].family.down))[:, :8] *= 1e-6
    report = shrink_(model, Neurons(0.3, scope="model"))
    assert report.summary["config"] == width
    assert getattr(model.config, width) == WIDTH // 2


def test_the_copies_of_a_config_say_the_same():
    """T5 gives each stack a copy of the model's config, in which a decoder's layers are num_layers."""
    model = make("t5")
    shrink_(model, Layers([1]))
    model_config, encoder, decoder = (m.config for m in (model, model.encoder, model.decoder))
    assert len({id(config) for config in (model_config, encoder, decoder)}) == 3
    assert (model_config.num_layers, model_config.num_decoder_layers) == (LAYERS - 1, LAYERS - 2)
    assert encoder.num_layers == LAYERS - 1
    assert (decoder.num_layers, decoder.num_decoder_layers) == (LAYERS - 2, LAYERS - 2)


def test_a_refusal_in_the_second_stack_leaves_the_first_as_it_was():
    model = make("bart")
    block = model.model.decoder.layers[1]
    block.fc2.weight = model.model.decoder.layers[0].fc2.weight
    before = [(id(p), p.shape) for p in model.parameters()], model.config.to_dict()
    for what in (Neurons(0.5), Layers([2, 5])):
        with pytest.raises(ValueError, match=r"got a shared weight|indices below 3"):
            shrink_(model, what)
    assert ([(id(p), p.shape) for p in model.parameters()], model.config.to_dict()) == before


# What is fused in each block: act(fc1) of BART is in the block itself, and CLIP's activation has no kernel.
FUSED = {
    **{name: {"self_attn.q_proj"} for name in ("bart", "mbart", "marian", "whisper", "clip")},
    **{name: {"SelfAttention.q", "DenseReluDense"} for name in ("t5", "t5-gated")},
    "albert-groups": {"attention.query"},
}


@pytest.mark.parametrize("name", MODELS)
def test_shrunk_pruned_accelerated_and_fused(name, tmp_path, monkeypatch):
    monkeypatch.setattr("prunus.accelerate.trial.fuse_faster", lambda model, sites, known, fused: [])
    model = shrunk(name, torch.float32)
    prunus.prune_(model, prunus.Unstructured(0.6))
    batch = batches(name, dtype=torch.float32)[0]
    dense = output(model, batch)
    report = prunus.accelerate_(model, batch, min_speedup=0.0)
    assert report.summary["converted"] > 0
    assert_close(output(model, batch), dense, rtol=1e-3, atol=1e-3)
    names = prunus.fuse_(model)
    for stack in stacks(model):
        for index in range(len(stack.layers)):
            inside = {n for n in names if n.startswith(f"{stack.name}.{index}.")}
            assert {end for end in FUSED[name] if any(n.endswith(end) for n in inside)} == FUSED[name]
            assert len(inside) == len(FUSED[name])
    expected = output(model, batch)
    assert_close(expected, dense, rtol=1e-3, atol=1e-3)
    prunus.save(model, tmp_path / "m.safetensors")
    fresh = prunus.load(make(name, seed=1, dtype=torch.float32), tmp_path / "m.safetensors")
    assert torch.equal(output(fresh, batch), expected)


def test_the_dropout_of_t5_stays_before_the_last_projection():
    model = make("t5", dtype=torch.float32, dropout_rate=0.5)
    prunus.prune_(model, prunus.Unstructured(0.6))
    batch = batches("t5")[0]
    prunus.accelerate_(model, batch, min_speedup=0.0)
    prunus.fuse_(model)
    mlp = model.encoder.block[0].layer[1].DenseReluDense
    assert mlp.roles["inner_dropout"] == "dropout"
    x, seen = torch.randn(1, 4, mlp.part("up").in_features), []
    mlp.part("inner_dropout").register_forward_hook(
        lambda _, args, out: seen.append((args[0].shape[-1], out))
    )
    mlp.train()
    out = mlp(x)
    ((width, dropped),) = seen
    assert width == WIDTH
    assert torch.equal(mlp.part("down")(dropped), out)
