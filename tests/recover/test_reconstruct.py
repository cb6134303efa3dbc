"""Reconstruct: a block at a time; zeros stay; undone where it does not help."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from recover_models import batches_for, pruned_pair, same, teacher_of, weights_of, zeros_of

import prunus
from prunus import Distill, Reconstruct, RecoverError, Refit, recover_
from prunus.recover.muon import Muon


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_quality_rises_and_zeros_stay(kind: str) -> None:
    model, teacher = pruned_pair(kind)
    zeros, dense = zeros_of(model), weights_of(teacher)
    report = recover_(model, teacher, batches_for(kind, 40), Reconstruct(steps=80))
    s = report.summary
    better = "divergence" if s["figure"] == "agreement" else "relative_error"
    assert s[f"after_{better}"] < 0.9 * s[f"before_{better}"]
    assert all(bool(zeros_of(model)[name][where].all()) for name, where in zeros.items())
    assert same(dense, weights_of(teacher))
    assert report.rows[0]["steps"] == 160
    assert report.rows[0]["note"] == "2 of 2 blocks came closer"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_only_blocks_change_and_the_seed_decides() -> None:
    found = []
    for seed in (1, 1, 2):
        model, teacher = pruned_pair("bert")
        before = weights_of(model)
        recover_(model, teacher, batches_for("bert", 30), Reconstruct(steps=10, seed=seed))
        found.append(weights_of(model))
        changed = {name for name, weight in found[-1].items() if not torch.equal(weight, before[name])}
        assert changed
        assert all(name.startswith("encoder.layer.") for name in changed)
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@pytest.mark.parametrize("how", [prunus.Neurons(0.5), prunus.Heads(0.5), prunus.Layers(drop=1)])
def test_what_was_removed_stays_removed(how: Any) -> None:
    teacher = teacher_of("bert")
    model = copy.deepcopy(teacher)
    data = batches_for("bert", 30)
    prunus.shrink_(model, how, calibration=data[:4])
    shapes = {name: p.shape for name, p in model.named_parameters()}
    report = recover_(model, teacher, data, Reconstruct(steps=60))
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert report.summary["after"] > report.summary["before"]


def test_in_sequence_with_the_others() -> None:
    model, teacher = pruned_pair("bert")
    methods = [Refit(), Reconstruct(steps=40), Distill(steps=40)]
    report = recover_(model, teacher, batches_for("bert", 40), methods)
    figures = [report.rows[0]["before"], *(row["after"] for row in report.rows)]
    assert all(b >= a for a, b in pairwise(figures))
    assert figures[-1] > figures[0]


def test_a_model_in_bfloat16() -> None:
    model, teacher = pruned_pair("bert")
    zeros = zeros_of(model)
    model.bfloat16()
    report = recover_(model, teacher, batches_for("bert", 40), Reconstruct(steps=60))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert report.summary["after"] > report.summary["before"]
    assert all(bool(zeros_of(model)[name][where].all()) for name, where in zeros.items())


def test_minutes_are_shared_by_the_blocks() -> None:
    model, teacher = pruned_pair("bert")
    report = recover_(model, teacher, batches_for("bert", 30), Reconstruct(steps=10**6, minutes=0.03))
    assert 2 <= report.rows[0]["steps"] < 10**5
    assert report.rows[0]["minutes"] < 0.3


def test_what_makes_it_worse_is_undone() -> None:
    model, teacher = pruned_pair("bert")
    data = batches_for("bert", 40)
    recover_(model, teacher, data, Distill(steps=150))
    before = weights_of(model)
    report = recover_(model, teacher, data[:3], Reconstruct(steps=60, tokens=30, learning_rate=0.3))
    assert report.rows[0]["note"].startswith("undone: cosine")
    assert same(before, weights_of(model))


@pytest.mark.parametrize("bits", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("what", [RuntimeError("no"), KeyboardInterrupt()])
def test_an_error_or_ctrl_c_puts_everything_back(
    what: BaseException, bits: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, teacher = pruned_pair("bert")
    model.to(bits)
    before = weights_of(model)
    step, calls = Muon.step, 0

    def broken(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 15:
            raise what
        return step(self, *args)

    monkeypatch.setattr(Muon, "step", broken)
    if isinstance(what, KeyboardInterrupt):
        with pytest.warns(UserWarning, match="interrupted; the model is as it was before Reconstruct"):
            recover_(model, teacher, batches_for("bert"), Reconstruct(steps=10))
    else:
        with pytest.raises(RecoverError, match="stopped by no; the model is as it was"):
            recover_(model, teacher, batches_for("bert"), Reconstruct(steps=10))
    assert calls == 16  # in the second block
    assert same(before, weights_of(model))


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"steps": 0}, ValueError, "steps: expected >= 1, got 0"),
        ({"tokens": True}, TypeError, "tokens: expected an integer, got bool"),
        ({"minutes": 0.0}, ValueError, "minutes: expected a finite number > 0, got 0.0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
    ],
)
def test_options(options: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        Reconstruct(**options)


def test_a_model_without_blocks_is_refused() -> None:
    model, teacher = pruned_pair("plain")
    with pytest.raises(ValueError, match="model: expected transformer blocks"):
        recover_(model, teacher, batches_for("plain"), Reconstruct())
