"""The verb: what is chosen, rounding, reports, refusals, and that an error leaves the model as it was."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from shrink_models import HEADS, HIDDEN, LAYERS, SIZES, VARIANTS, WIDTH, batches, make, output
from small_models import build
from torch import nn
from torch.nn.utils import prune

from prunus.calibration import Calibration
from prunus.families import blocks, find_stack, weight_matrix
from prunus.shrink import Heads, Layers, Neurons, check_optimizer, shrink_
from prunus.shrink.groups import sites
from prunus.shrink.measure import Moments, taylor_scores


def widths(model):
    stack = find_stack(model)
    return [weight_matrix(b.get_submodule(stack.family.down)).shape[1] for b in stack.layers]


@pytest.mark.parametrize(("sparsity", "left"), [(0.0, 48), (0.01, 48), (0.25, 36), (0.5, 24), (0.99, 1)])
def test_the_number_that_stays_is_exact(sparsity, left):
    model = make("bert")
    shrink_(model, Neurons(sparsity))
    assert widths(model) == [left] * LAYERS


@pytest.mark.parametrize(
    ("sparsity", "round_to", "left"), [(0.3, 8, 40), (0.5, 8, 24), (0.99, 8, 8), (0.1, 32, 48)]
)
def test_widths_are_rounded_up_but_never_beyond_the_present(sparsity, round_to, left):
    model = make("gpt2")
    shrink_(model, Neurons(sparsity), round_to=round_to)
    assert widths(model) == [left] * LAYERS
    assert model.config.n_inner == left


def test_rounding_of_heads_counts_columns():
    model = make("bert")  # heads of 8 columns: 3 heads are 24 columns, 16 asks for 32
    shrink_(model, Heads(0.25), round_to=16)
    assert [b.attention.self.num_attention_heads for b in blocks(model).values()] == [HEADS] * LAYERS
    shrink_(model, Heads(0.5), round_to=16)
    assert [b.attention.self.num_attention_heads for b in blocks(model).values()] == [2] * LAYERS


def test_weight_importance_keeps_the_largest_norms():
    model = make("llama")
    site = sites(find_stack(model), "neurons")[0]
    mlp = site.block.mlp
    score = (
        mlp.up_proj.weight.norm(dim=1) * mlp.gate_proj.weight.norm(dim=1) * mlp.down_proj.weight.norm(dim=0)
    )
    expected = mlp.up_proj.weight.detach()[(score >= np.median(score.detach().numpy())).nonzero().flatten()]
    shrink_(model, Neurons(0.5))
    assert torch.equal(mlp.up_proj.weight, expected)


def test_activation_importance_is_the_measured_error():
    """Removing one neuron with its mean folded leaves exactly its score as mean squared error of the MLP."""
    model, calibration = make("bert"), batches(1)
    site = sites(find_stack(model), "neurons")[0]
    seen = []
    handle = site.out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output(model, calibration[0])
    handle.remove()
    rows = seen[0][calibration[0]["attention_mask"].bool()]
    errors = [
        ((rows[:, j] - rows[:, j].mean())[:, None] * site.out.weight[:, j]).square().sum(1).mean()
        for j in range(WIDTH)
    ]
    order = np.argsort(torch.stack(errors).detach().numpy())
    kept = np.sort(order[12:])
    before = site.out.weight.detach().clone()
    shrink_(model, Neurons(0.25), calibration)
    assert torch.equal(site.out.weight, before[:, kept])


def test_gradient_importance_keeps_what_moves_the_loss():
    model = make("bert")
    mlp = list(blocks(model).values())[-1]
    with torch.no_grad():
        mlp.output.dense.weight[:, ::2] = 0  # no gradient reaches these neurons
        mlp.intermediate.dense.weight[::2] *= 100  # though they are loud
    kept = mlp.intermediate.dense.weight.detach()[1::2].clone()
    model.requires_grad_(False)

    def loss(model, batch):
        return (
            model(**batch).last_hidden_state.square().mean() + model(**batch).last_hidden_state[..., 0].sum()
        )

    report = shrink_(model, Neurons(0.5, importance="gradient", loss=loss), batches())
    assert torch.equal(mlp.intermediate.dense.weight, kept)
    assert report.summary["importance"] == "gradient"
    assert all(p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in model.parameters())


def test_gradient_importance_takes_the_loss_of_the_output():
    model = make("gpt2")
    with_labels = [{**batch, "labels": batch["input_ids"]} for batch in batches()]
    shrink_(model, Heads(0.5, importance="gradient"), with_labels)
    assert [b.attn.num_heads for b in blocks(model).values()] == [HEADS // 2] * LAYERS
    with pytest.raises(ValueError, match="loss: expected a scalar tensor with a gradient"):
        shrink_(model, Heads(0.5, importance="gradient"), batches())


def test_one_budget_for_the_model_makes_uneven_widths():
    model = make("bert")
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight[:, : WIDTH // 2] *= 1e-6
    report = shrink_(model, Neurons(0.25, scope="model"), batches())
    assert sum(widths(model)) == round(0.75 * WIDTH * LAYERS)
    assert widths(model)[0] < min(widths(model)[1:])
    assert report.summary["config"] == "intermediate_size"
    assert model.config.intermediate_size == WIDTH
    assert "intermediate_size cannot describe" in str(report)


def test_every_block_keeps_one_group():
    model = make("bert")
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.zero_()
    shrink_(model, Neurons(0.5, scope="model"))
    assert widths(model)[0] == 1


def test_llama_config_follows_and_builds_the_same_shapes():
    model = make("qwen2")
    shrink_(model, Heads(0.5), batches())
    shrink_(model, Neurons(0.25), batches(), round_to=8)
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    assert config.intermediate_size == 40
    fresh = type(model)(copy.deepcopy(config))
    shapes = {
        name: p.shape
        for name, p in model.named_parameters()
        if "down_proj.b" not in name and "o_proj.b" not in name
    }
    assert shapes == {name: p.shape for name, p in fresh.named_parameters()}


def test_bert_config_cannot_say_fewer_heads_and_the_report_says_so():
    model = make("bert")
    report = shrink_(model, Heads(0.5))
    assert report.summary["config"] == "num_attention_heads"
    assert model.config.num_attention_heads == HEADS
    attention = model.encoder.layer[0].attention.self
    assert (attention.num_attention_heads, attention.all_head_size) == (2, 16)


def test_report_counts_what_went():
    model = make("llama-bias", dtype=torch.float32)
    before = sum(p.numel() for p in model.parameters())
    report = shrink_(model, Neurons(0.5), batches())
    after = sum(p.numel() for p in model.parameters())
    gone = LAYERS * (WIDTH // 2) * (3 * HIDDEN + 2)
    assert (report.summary["parameters_before"], report.summary["parameters_after"]) == (before, after)
    assert before - after == gone
    assert report.summary["mb_before"] - report.summary["mb_after"] == pytest.approx(4 * gone / 1e6)
    assert [row["layer"] for row in report.rows] == [f"model.layers.{i}.mlp.down_proj" for i in range(LAYERS)]
    assert {(row["before"], row["after"], row["bias"]) for row in report.rows} == {
        (WIDTH, WIDTH // 2, "folded")
    }
    assert sum(row["parameters_before"] - row["parameters_after"] for row in report.rows) == gone


def test_a_missing_bias_is_added_only_where_there_is_something_to_fold():
    silent, measured = make("llama"), make("llama")
    assert {row["bias"] for row in shrink_(silent, Neurons(0.5)).rows} == {""}
    assert silent.model.layers[0].mlp.down_proj.bias is None
    report = shrink_(measured, Neurons(0.5), batches())
    assert {row["bias"] for row in report.rows} == {"added"}
    assert report.summary["biases_added"] == LAYERS
    assert f"{LAYERS} biases added" in str(report)
    assert measured.model.layers[0].mlp.down_proj.bias.shape == (HIDDEN,)


def test_influence_finds_the_block_that_does_nothing():
    model = make("gpt2")
    lazy = model.transformer.h[1]
    with torch.no_grad():
        for out in (lazy.attn.c_proj, lazy.mlp.c_proj):
            out.weight.mul_(1e-3)
            out.bias.mul_(1e-3)
    report = shrink_(model, Layers(1), batches())
    assert [row["after"] for row in report.rows] == [1, 0, 1]
    assert all(block is not lazy for block in blocks(model).values())
    influences = [row["influence"] for row in report.rows]
    assert influences[1] < 1e-4 < min(influences[0], influences[2])


@pytest.mark.parametrize(("name", "note"), [("bert", "folded"), ("gpt2", "folded"), ("llama", "added")])
def test_a_missing_block_leaves_its_mean(name, note):
    """The last bias of the block before takes it, so the next block sees the same mean input."""
    model, calibration = make(name), batches(1)
    third = list(blocks(model).values())[2]
    wanted = mean_input(model, third, calibration)
    report = shrink_(model, Layers([1]), calibration)
    assert [row["bias"] for row in report.rows] == [note, "", ""]
    torch.testing.assert_close(mean_input(model, third, calibration), wanted, rtol=0, atol=1e-10)
    plain = make(name)
    assert {row["bias"] for row in shrink_(plain, Layers([1], compensate="none"), calibration).rows} == {""}
    assert (mean_input(plain, list(blocks(plain).values())[1], calibration) - wanted).abs().max() > 1e-3


def mean_input(model, block, calibration):
    seen = []
    hook = lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"])  # noqa: E731
    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    output(model, calibration[0])
    handle.remove()
    return seen[0][calibration[0]["attention_mask"].bool()].mean(0)


def test_the_first_block_has_nobody_to_leave_its_mean_to():
    model = make("bert")
    report = shrink_(model, Layers([0]), batches())
    assert {row["bias"] for row in report.rows} == {""}


def test_padding_does_not_count():
    padded, alone = make("bert"), make("bert")
    rows = batches(1, rows=1)[0]["input_ids"]
    wide = torch.cat([rows, torch.full((1, 5), 7)], dim=1)
    mask = torch.cat([torch.ones_like(rows), torch.zeros(1, 5, dtype=torch.long)], dim=1)
    shrink_(padded, Neurons(0.5), [{"input_ids": wide, "attention_mask": mask}])
    shrink_(alone, Neurons(0.5), [{"input_ids": rows, "attention_mask": torch.ones_like(rows)}])
    for one, other in zip(padded.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_moments_equal_the_naive_ones_for_large_means():
    rows = torch.randn(101, 3, dtype=torch.float64) + torch.tensor([0.0, 1e6, -1e8])
    moments = Moments()
    for part in rows.split([1, 0, 40, 60]):
        moments.add(part)
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.variance, rows.var(0, correction=0))


def test_an_ordinary_object_afterwards():
    model = make("llama")
    shrink_(model, Neurons(0.5), batches())
    shrink_(model, Layers([0]))
    batch = batches(seed=5)[0]
    expected = output(model, batch)
    assert torch.equal(output(copy.deepcopy(model), batch), expected)
    assert torch.equal(output(pickle.loads(pickle.dumps(model)), batch), expected)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_training_modes_dtype_and_frozen_weights_stay():
    model = make("bert", dtype=torch.bfloat16).train()
    model.pooler.eval()
    frozen = model.encoder.layer[0].intermediate.dense
    frozen.requires_grad_(False)
    shrink_(model, Neurons(0.5), batches())
    assert model.training
    assert not model.pooler.training
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not frozen.weight.requires_grad
    assert not frozen.bias.requires_grad
    assert model.encoder.layer[1].intermediate.dense.weight.requires_grad


def test_a_shrunk_model_trains():
    model = make("bert")
    shrink_(model, Heads(0.5), batches())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    target = torch.zeros(3, HIDDEN, dtype=torch.float64)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (model(**batches(1)[0]).pooler_output - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_an_optimizer_with_dead_parameters_is_noticed():
    model = make("bert")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert check_optimizer(optimizer, model) == []
    shrink_(model, Neurons(0.5))
    with pytest.warns(UserWarning, match=r"holds 9 parameters .* and 9 of the model's are not in it"):
        dead = check_optimizer(optimizer, model)
    assert len(dead) == 3 * LAYERS  # up weight and bias, down weight
    assert check_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model) == []


def snapshot(model):
    config = find_stack(model).config
    return [(n, id(p), p.detach().clone()) for n, p in model.named_parameters()], config and config.to_dict()


def assert_untouched(model, before):
    parameters, config = before
    after, same = snapshot(model)
    assert [(n, i) for n, i, _ in after] == [(n, i) for n, i, _ in parameters]
    assert all(torch.equal(x, y) for (_, _, x), (_, _, y) in zip(after, parameters, strict=True))
    assert same == config


def nan_weight(model):
    model.encoder.layer[2].output.dense.weight.data[0, 0] = float("nan")


def tied(model):
    model.encoder.layer[2].output.dense.weight = model.encoder.layer[0].output.dense.weight


def repeated(model):
    model.encoder.layer[2] = model.encoder.layer[0]


def pruned_by_torch(model):
    prune.l1_unstructured(model.encoder.layer[2].output.dense, "weight", amount=0.5)


def norm_over_width(model):
    model.encoder.layer[2].intermediate.extra = nn.LayerNorm(WIDTH)


FAILURES = {
    "sparsity": (None, lambda m: Neurons(1.0), {}, "sparsity: expected below 1, got 1"),
    "importance": (
        None,
        lambda m: Neurons(0.5, importance="taylor"),
        {},
        "importance: expected auto, weight",
    ),
    "scope": (None, lambda m: Heads(0.5, scope="row"), {}, "scope: expected layer, model, got 'row'"),
    "loss": (None, lambda m: Heads(0.5, loss=len), {}, "loss: expected None with importance 'auto'"),
    "needs batches": (
        None,
        lambda m: Neurons(0.5, importance="activation"),
        {},
        "expected batches .*'activation'",
    ),
    "influence": (None, lambda m: Layers(1), {}, "calibration: expected batches to measure the influence"),
    "all layers": (
        None,
        lambda m: Layers(3),
        {"calibration": batches()},
        "fewer than the 3 blocks of encoder.layer",
    ),
    "no such layer": (None, lambda m: Layers([3]), {}, "drop: expected indices below 3, got 3"),
    "twice": (None, lambda m: Layers([1, 1]), {}, "drop: expected each index once"),
    "negative": (None, lambda m: Layers(-1), {}, "drop: expected >= 0, got -1"),
    "negative index": (None, lambda m: Layers([-1]), {}, "drop: expected indices >= 0, got -1"),
    "fold": (
        None,
        lambda m: Layers(1, compensate="weight"),
        {},
        "compensate: expected bias, none, got 'weight'",
    ),
    "round_to": (None, lambda m: Neurons(0.5), {"round_to": 0}, "round_to: expected >= 1, got 0"),
    "empty": (None, lambda m: Neurons(0.5), {"calibration": []}, "calibration: expected at least one batch"),
    "nan": (nan_weight, lambda m: Neurons(0.5), {}, "NaN"),
    "needs batches too": (
        None,
        lambda m: Heads(0.5, compensate="weight"),
        {},
        "expected batches for compensate",
    ),
    "compensate": (
        None,
        lambda m: Heads(0.5, compensate=True),
        {},
        "compensate: expected bias, weight, none, got T",
    ),
    "nan activation": (
        nan_weight,
        lambda m: Layers(1),
        {"calibration": batches()},
        "finite numbers at encoder.layer.2",
    ),
    "tied": (tied, lambda m: Neurons(0.5), {}, "weights of its own, got a shared weight"),
    "repeated": (repeated, lambda m: Neurons(0.5), {}, "blocks of their own"),
    "norm": (
        norm_over_width,
        lambda m: Neurons(0.5),
        {},
        "no other weights of width 48, got intermediate.extra.weight",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_refusals_leave_the_model_untouched(case):
    damage, target, options, message = FAILURES[case]
    model = make("bert")
    if damage:
        damage(model)
    before = None if case.startswith("nan") else snapshot(model)
    with pytest.raises(ValueError, match=message):
        shrink_(model, target(model), **options)
    if before:
        assert_untouched(model, before)
    assert widths(model) == [WIDTH] * LAYERS


@pytest.mark.parametrize(
    ("damage", "what", "message"),
    [
        (pruned_by_torch, Neurons(0.5), "expected a Linear or Conv1D with a dense 2-D weight, got Linear"),
        (None, 0.5, "what: expected Neurons, Heads or Layers, got float"),
    ],
)
def test_wrong_kinds_are_refused(damage, what, message):
    model = make("bert")
    if damage:
        damage(model)
    with pytest.raises(TypeError, match=message):
        shrink_(model, what)
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got str"):
        shrink_("bert", Neurons(0.5))
    with pytest.raises(TypeError, match="drop: expected a number of blocks or their indices, got 'a'"):
        Layers("a")


def test_an_error_while_assigning_is_taken_back():
    model = make("bert")

    class Sealed(type(model.config)):
        def __setattr__(self, name, value):
            if name == "intermediate_size" and getattr(self, name, value) != value:
                raise RuntimeError("sealed")
            super().__setattr__(name, value)

    model.config.__class__ = Sealed
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="sealed"):
        shrink_(model, Neurons(0.5), batches())
    assert_untouched(model, before)
    assert model.encoder.layer[0].intermediate.dense.out_features == WIDTH


def test_unequal_heads_are_refused_where_the_forward_pass_reads_the_config():
    model = make("phi3")
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, : HIDDEN // 2] *= 1e-6
        model.model.layers[1].self_attn.o_proj.weight.mul_(10)
    before = snapshot(model)
    with pytest.raises(ValueError, match="scope: expected 'layer' for 'phi3'"):
        shrink_(model, Heads(0.2, scope="model"), batches())
    assert_untouched(model, before)


def test_blocks_that_depend_on_their_index_are_not_dropped():
    model = make("gpt2")
    model.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(ValueError, match=r"got config\.scale_attn_by_inverse_layer_idx"):
        shrink_(model, Layers([0]))


def test_gradient_importance_counts_every_run_of_a_shared_block():
    model, calibration = make("albert"), batches()

    def loss(model, batch):
        return model(**batch).pooler_output.square().sum()

    found = sites(find_stack(model), "neurons")
    scores = taylor_scores(model, found, Calibration(calibration), loss)
    totals, tokens = torch.zeros(len(found), WIDTH, dtype=torch.float64), 0
    for batch in calibration:
        seen = []
        handles = [
            site.out.register_forward_pre_hook(lambda _, args, i=i, seen=seen: seen.append((i, args[0])))
            for i, site in enumerate(found)
        ]
        value = loss(model, batch)
        for handle in handles:
            handle.remove()
        assert len(seen) == 2 * LAYERS  # the config's two layers run through all blocks
        real = batch["attention_mask"].bool()
        tokens += 2 * int(real.sum())
        for (i, x), gradient in zip(seen, torch.autograd.grad(value, [x for _, x in seen]), strict=True):
            totals[i] += (x * gradient)[real].abs().sum(0).detach()
    for score, total in zip(scores, totals, strict=True):
        torch.testing.assert_close(score, total / tokens)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deberta", {"conv_kernel_size": 3}, "do not depend on their index, got config.conv_kernel_size"),
        ("modernbert", {}, "expected no first block of layers, got 0: it is the only one without a norm"),
    ],
)
def test_a_first_block_that_is_unlike_the_others_stays(name, options, message):
    model = build(VARIANTS[name][0], SIZES, **options)
    with pytest.raises(ValueError, match=message):
        shrink_(model, Layers([0]))
    assert len(blocks(model)) == LAYERS
