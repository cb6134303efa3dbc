"""Distill: quality rises, zeros stay, the model is whole whatever happens."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from recover_models import Letters, batches_for, pruned_pair, same, teacher_of, weights_of, zeros_of
from small_models import SPREAD, build, small, tokens
from torch import nn

import prunus
from prunus import Batches, Distill, RecoverError, Texts, recover_

KINDS = ["bert", "gpt2", "llama", "plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_quality_rises_and_zeros_stay(kind: str) -> None:
    model, teacher = pruned_pair(kind)
    zeros, dense = zeros_of(model), weights_of(teacher)
    # A tied head is the embedding: it stays dense and still.
    tables = [copy.deepcopy(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)]
    report = recover_(model, teacher, batches_for(kind, 40), Distill(steps=120))
    s = report.summary
    assert s["after"] > s["before"]
    better = "divergence" if s["figure"] == "agreement" else "relative_error"
    assert s[f"after_{better}"] < 0.8 * s[f"before_{better}"]
    now = zeros_of(model)
    assert all(bool(now[name][where].all()) for name, where in zeros.items())
    assert any(bool((~where).any()) and bool(where.any()) for where in zeros.values())
    assert same(dense, weights_of(teacher))
    after = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    assert all(torch.equal(a, b) for a, b in zip(tables, after, strict=True))
    assert not model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_held_out_figures_are_those_of_the_model() -> None:
    model, teacher = pruned_pair("plain")
    held_out = batches_for("plain", 2, seed=9)
    data = Batches(batches_for("plain"), held_out)
    report = recover_(model, teacher, data, Distill(steps=30))
    x = torch.cat(held_out)
    with torch.no_grad():
        cosine = torch.cosine_similarity(model(x), teacher(x), dim=-1).mean()
    assert report.summary["after"] == pytest.approx(float(cosine), abs=1e-6)


@pytest.mark.parametrize("how", [prunus.Neurons(0.5), prunus.Heads(0.5), prunus.Layers(drop=1)])
def test_what_was_removed_stays_removed(how: Any) -> None:
    teacher = teacher_of("bert")
    model = copy.deepcopy(teacher)
    data = batches_for("bert", 20)
    prunus.shrink_(model, how, calibration=data[:4])
    shapes = {name: p.shape for name, p in model.named_parameters()}
    report = recover_(model, teacher, data, Distill(steps=120))
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert report.summary["after"] > report.summary["before"]
    assert not report.summary["notes"]


def test_the_same_seed_gives_the_same_weights() -> None:
    found = []
    for seed in (3, 3, 4):
        model, teacher = pruned_pair("bert")
        recover_(model, teacher, batches_for("bert"), Distill(steps=8, seed=seed, precision="float32"))
        found.append(weights_of(model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_accumulated_batches_are_one_step() -> None:
    model, teacher = pruned_pair("plain")
    report = recover_(model, teacher, batches_for("plain", 13), Distill(steps=4, accumulate=3))
    assert report.rows[0]["steps"] == 4
    assert report.rows[0]["tokens"] == 4 * 3 * 8
    assert report.summary["reached"] == 1.0


def test_padding_is_not_a_token() -> None:
    model, teacher = pruned_pair("bert")
    report = recover_(model, teacher, batches_for("bert"), Distill(steps=2))
    assert report.rows[0]["tokens"] == 2 * (4 * 10 - 3)


def test_padding_changes_nothing() -> None:
    found = []
    for width in (10, 14):
        model, teacher = pruned_pair("bert")
        data = batches_for("bert")
        wide = [{k: nn.functional.pad(v, (0, width - 10)) for k, v in batch.items()} for batch in data]
        recover_(model, teacher, wide, Distill(steps=3))
        found.append(weights_of(model))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-3) for name in found[0])


def test_a_teacher_in_bfloat16_and_a_model_in_bfloat16() -> None:
    model, teacher = pruned_pair("bert")
    zeros = zeros_of(model)
    report = recover_(model, copy.deepcopy(teacher).bfloat16(), batches_for("bert", 30), Distill(steps=80))
    assert report.summary["after"] > report.summary["before"]
    short, _ = pruned_pair("bert")
    short.bfloat16()
    report = recover_(short, teacher, batches_for("bert", 30), Distill(steps=80))
    assert {p.dtype for p in short.parameters()} == {torch.bfloat16}
    assert report.summary["after"] > report.summary["before"]
    assert all(bool((short.get_submodule(n).weight == 0)[where].all()) for n, where in zeros.items())


def test_training_in_bfloat16() -> None:
    model, teacher = pruned_pair("bert")
    report = recover_(model, teacher, batches_for("bert", 30), Distill(steps=80, precision="bfloat16"))
    assert report.rows[0]["precision"] == "bfloat16"
    assert report.summary["after"] > report.summary["before"]


def fused_gradients(**how: Any) -> int:
    """How often three steps on a CPU took the gradient of torch's fused attention."""
    model, teacher = pruned_pair("bert")
    with torch.profiler.profile() as seen:
        recover_(model, teacher, batches_for("bert"), Distill(steps=3, **how))
    names = [event.key for event in seen.key_averages() for _ in range(event.count)]
    return sum("flash_attention" in name and "backward" in name for name in names)


def test_bfloat16_trains_without_the_fused_attention_whose_gradient_is_slow() -> None:
    assert fused_gradients(precision="bfloat16") == 0
    assert fused_gradients(precision="float32") > 0
    # What runs again for the gradient has to be what ran before.
    assert fused_gradients(precision="bfloat16", gradient_checkpointing=True) > 0


def test_gradient_checkpointing_gives_the_same() -> None:
    found = []
    for less_memory in (False, True):
        model, teacher = pruned_pair("bert")
        how = Distill(steps=4, precision="float32", gradient_checkpointing=less_memory)
        recover_(model, teacher, batches_for("bert"), how)
        found.append(weights_of(model))
        assert not model.training
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])
    plain, teacher = pruned_pair("plain")
    with pytest.raises(ValueError, match="gradient_checkpointing: expected a model that offers it"):
        recover_(plain, teacher, batches_for("plain"), Distill(steps=1, gradient_checkpointing=True))


def test_a_loss_of_the_users_sees_the_labels() -> None:
    model, teacher = pruned_pair("gpt2")
    data = [batch | {"labels": batch["input_ids"]} for batch in batches_for("gpt2")]
    seen = []

    def loss(output: Any, batch: Any) -> torch.Tensor:
        seen.append(torch.equal(batch["labels"], batch["input_ids"]))
        return output.loss

    report = recover_(model, teacher, data, Distill(steps=3, loss=loss, precision="float32"))
    assert seen == [True] * 3
    assert any("labels" in note for note in report.summary["notes"])  # of the held-out batches


def test_filter_fn_leaves_modules_still() -> None:
    model, teacher = pruned_pair("bert")
    before = weights_of(model)
    recover_(
        model, teacher, batches_for("bert"), Distill(steps=4), lambda module, name: "layer.1" not in name
    )
    after = weights_of(model)
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert all(("layer.1" in name or "embeddings" in name or "pooler" in name) for name in still)
    assert any("layer.1" in name for name in still)


def test_texts_for_an_encoder_and_a_language_model(tmp_path: Any) -> None:
    lines = [f"the line {i} of a text with words, {'and more ' * (i % 5)}" for i in range(80)]
    path = tmp_path / "lines.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    for kind in ("bert", "gpt2"):
        model, teacher = pruned_pair(kind)
        data = Texts(path, Letters(), length=20, batch=8)
        report = recover_(model, teacher, data, Distill(steps=60))
        better = "divergence" if kind == "gpt2" else "relative_error"
        assert report.summary[f"after_{better}"] < report.summary[f"before_{better}"]
        assert ("after_perplexity" in report.summary) == (kind == "gpt2")


class Broken:
    """A loss that goes wrong at one call."""

    def __init__(self, at: int, what: Any) -> None:
        self.at, self.what, self.calls = at, what, 0

    def __call__(self, output: Any, batch: Any) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.at:
            if isinstance(self.what, BaseException):
                raise self.what
            return torch.tensor(self.what)
        return torch.zeros(())


def test_an_error_leaves_the_best_state_and_says_so() -> None:
    model, teacher = pruned_pair("plain")
    data = Batches(batches_for("plain", 12), batches_for("plain", 2, seed=9))
    how = Distill(steps=40, loss=Broken(27, RuntimeError("disk on fire")), precision="float32")
    with pytest.raises(RecoverError, match=r"step 26 by disk on fire; .* best state .* at step 24"):
        recover_(model, teacher, data, how)
    again, _ = pruned_pair("plain")
    watched: list[Any] = []

    def watch(output: Any, batch: Any) -> torch.Tensor:
        watched.append(weights_of(again))
        return torch.zeros(())

    recover_(again, teacher, data, Distill(steps=40, loss=watch, precision="float32"))
    assert same(weights_of(model), watched[24])


def test_an_error_before_the_first_look_leaves_the_model_as_it_was() -> None:
    model, teacher = pruned_pair("plain")
    before = weights_of(model)
    how = Distill(steps=40, loss=Broken(2, RuntimeError("no")), precision="float32")
    with pytest.raises(RecoverError, match="the model is as it was"):
        recover_(model, teacher, batches_for("plain"), how)
    assert same(before, weights_of(model))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_step(bad: float) -> None:
    model, teacher = pruned_pair("plain")
    how = Distill(steps=40, loss=Broken(9, bad), precision="float32")
    with pytest.raises(RecoverError, match=f"a loss of {bad} in step 9.* best state so far"):
        recover_(model, teacher, batches_for("plain"), how)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_ctrl_c_leaves_the_best_state_and_a_report() -> None:
    model, teacher = pruned_pair("plain")
    how = Distill(steps=40, loss=Broken(30, KeyboardInterrupt()), precision="float32")
    with pytest.warns(UserWarning, match="interrupted at step 29; the model holds the best state") as told:
        report = recover_(model, teacher, batches_for("plain"), [how, Distill(steps=5)])
    assert told[0].filename == __file__
    assert len(report.rows) == 1  # the second method did not run
    assert report.rows[0]["note"] == "interrupted at step 29"
    assert report.summary["after"] > report.summary["before"]


def test_data_that_runs_out_ends_the_training() -> None:
    model, teacher = pruned_pair("plain")

    def once() -> Iterator[torch.Tensor]:
        yield from batches_for("plain", 14)

    report = recover_(model, teacher, once(), Distill(steps=40))
    assert report.rows[0]["steps"] == 10
    assert report.rows[0]["note"] == "the data ran out after step 10"


def test_minutes_are_kept() -> None:
    model, teacher = pruned_pair("plain")
    report = recover_(model, teacher, batches_for("plain"), Distill(minutes=0.01))
    assert report.rows[0]["steps"] > 1
    assert 0.01 <= report.rows[0]["minutes"] < 0.05


def test_a_model_that_is_not_pruned_is_trained_with_a_warning() -> None:
    teacher = teacher_of("plain")
    model = copy.deepcopy(teacher)
    with torch.no_grad():
        model[0].weight.add_(0.3)
    with pytest.warns(UserWarning, match="all 432 weights of 2 layers are trained freely"):
        report = recover_(model, teacher, batches_for("plain"), Distill(steps=60, learning_rate=0.05))
    assert report.summary["after"] > report.summary["before"]


def test_a_rate_that_is_too_large_is_lowered() -> None:
    model, teacher = pruned_pair("bert")
    report = recover_(model, teacher, batches_for("bert"), Distill(steps=100, learning_rate=10.0))
    assert re.search(r"went back (once|\d times), to a learning rate of \d", report.rows[0]["note"])
    distances = [1.0 - row["cosine"] for row in report.curve]
    assert distances[-1] < 0.5 * distances[0] < 0.5 * max(distances)


def test_dropped_blocks_are_matched_with_those_they_came_from() -> None:
    from prunus.recover.pairs import pair_blocks

    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = build("bert", **SPREAD)
    for i, layer in enumerate(teacher.encoder.layer):
        nn.init.normal_(layer.output.dense.bias, mean=float(i))
    model = copy.deepcopy(teacher)
    del model.encoder.layer[0]
    (pair,) = pair_blocks(model, teacher)
    assert (pair.student, pair.teacher, pair.target) == (
        "encoder.layer.0",
        "encoder.layer.1",
        "encoder.layer.1",
    )


def test_batches_of_a_tokenizer_have_a_perplexity() -> None:
    from transformers import BatchEncoding

    teacher = small("gpt2")
    model = copy.deepcopy(teacher)
    prunus.prune_(model, prunus.Unstructured(0.5))
    data = [BatchEncoding({"input_ids": ids}) for ids in tokens(8)]
    report = recover_(model, teacher, data, Distill(steps=1, precision="float32"))
    assert report.summary["after_perplexity"] > 1.0
