"""Gradual: zeros come on the way, stay, and the best state is one of the final pattern."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from recover_models import batches_for, same, teacher_of, weights_of, zeros_of

import prunus
from prunus import NM, Block, Distill, Gradual, Magnitude, RecoverError, Unstructured, Wanda, recover_
from prunus.recover import train


def shares(model: Any) -> list[float]:
    """Of zeros, in every pruned layer."""
    found = [float(zeros.float().mean()) for zeros in zeros_of(model).values()]
    return [share for share in found if share > 0.1]


def recovered(kind: str, gradual: Gradual, steps: int = 40, **more: Any) -> tuple[Any, Any, Any]:
    teacher = teacher_of(kind)
    model = copy.deepcopy(teacher)
    how = Distill(steps=steps, precision="float32", gradual=gradual, **more)
    return model, teacher, recover_(model, teacher, batches_for(kind, 20), how)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "plain"])
@pytest.mark.parametrize("method", [Magnitude(), Wanda()], ids=str)
def test_the_pattern_is_reached(kind: str, method: Any) -> None:
    model, teacher, report = recovered(kind, Gradual(Unstructured(0.75), method, updates=4))
    assert shares(model)
    assert all(share == pytest.approx(0.75, abs=0.01) for share in shares(model))
    assert not report.summary["notes"]  # it comes dense on purpose
    assert "pruned 4 times, to Unstructured(sparsity=0.75" in report.rows[0]["note"]
    cuts = [row for row in report.curve if row["method"] == "Gradual"]
    assert [row["step"] for row in cuts] == [0, 8, 16, 24]
    # The last cut, and what was learned since.
    last, end = cuts[-1], report.curve[-1]
    assert end["divergence"] < last["divergence"] if "divergence" in end else end["cosine"] > last["cosine"]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert same(weights_of(teacher), weights_of(teacher_of(kind)))


@pytest.mark.parametrize(
    ("pattern", "cuts"),
    [(NM(2, 4), 1), (Block((4, 4), 0.5), 3), (Unstructured(0.5, scope="row"), 3)],
    ids=str,
)
def test_every_kind_of_pattern(pattern: Any, cuts: int) -> None:
    model, _, report = recovered("bert", Gradual(pattern, updates=3))
    assert all(share >= 0.49 for share in shares(model))
    assert f"pruned {cuts} times" in report.rows[0]["note"]


def test_it_beats_pruning_at_once() -> None:
    """On a model that has learned something: the same steps, the same number of zeros."""
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Linear(12, 48), torch.nn.Tanh(), torch.nn.Linear(48, 12))
    data = [torch.randn(16, 12) for _ in range(30)]
    found = {}
    for name in ("at once", "gradual"):
        model = copy.deepcopy(teacher)
        gradual = Gradual(Unstructured(0.8)) if name == "gradual" else None
        if gradual is None:
            prunus.prune_(model, Unstructured(0.8))
        report = recover_(model, teacher, data, Distill(steps=300, precision="float32", gradual=gradual))
        assert [round(share, 2) for share in shares(model)] == [0.8, 0.8]
        found[name] = report.summary["after"]
    assert found["gradual"] > found["at once"]


def test_zeros_that_were_there_stay() -> None:
    teacher = teacher_of("bert")
    model = copy.deepcopy(teacher)
    prunus.prune_(model, Unstructured(0.3))
    before = zeros_of(model)
    recover_(
        model, teacher, batches_for("bert"), Distill(steps=20, gradual=Gradual(Unstructured(0.6), updates=3))
    )
    after = zeros_of(model)
    assert all(bool(after[name][zeros].all()) for name, zeros in before.items())


def test_the_best_state_has_all_zeros_whatever_its_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense model answers best of all: it must not come back."""
    monkeypatch.setattr(train, "LOOKS", 40)
    model, _, report = recovered("plain", Gradual(Unstructured(0.9), updates=5))
    assert [round(share, 1) for share in shares(model)] == [0.9, 0.9]
    assert report.summary["after"] < report.summary["before"]


def test_an_error_on_the_way_says_how_far_it_came() -> None:
    teacher = teacher_of("plain")
    model = copy.deepcopy(teacher)
    calls = []

    def loss(output: Any, batch: Any) -> Any:
        calls.append(1)
        return output.sum() * (float("nan") if len(calls) > 12 else 0.0)

    how = Distill(steps=40, precision="float32", gradual=Gradual(Unstructured(0.8), updates=4), loss=loss)
    with pytest.raises(RecoverError, match=r"stopped at step 12 .*the model holds the best state so far"):
        recover_(model, teacher, batches_for("plain", 20), how)
    assert all(0.6 < share < 0.79 for share in shares(model))  # the second of four


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _, _ = recovered("bert", Gradual(Unstructured(0.75), updates=4))
    file = tmp_path / "checkpoint"
    step = train.Training._take_step

    def killed(self: Any, batches: Any) -> bool:
        if self.step == 21:
            raise SystemExit("killed")
        return bool(step(self, batches))

    monkeypatch.setattr(train.Training, "_take_step", killed)
    with pytest.raises(SystemExit):
        recovered("bert", Gradual(Unstructured(0.75), updates=4), checkpoint=file)
    monkeypatch.setattr(train.Training, "_take_step", step)
    model, _, report = recovered("bert", Gradual(Unstructured(0.75), updates=4), checkpoint=file)
    assert "went on at step" in report.rows[0]["note"]
    assert same(weights_of(model), weights_of(whole))


def test_bad_input() -> None:
    for arguments, error, text in (
        ((0.8,), TypeError, "pattern: expected Unstructured, NM or Block, got float"),
        ((Unstructured(0.0),), ValueError, "pattern: expected a sparsity above 0"),
        ((Unstructured(0.5), "wanda"), TypeError, "method: expected a method such as Magnitude"),
        ((Unstructured(0.5), Magnitude(), 0), ValueError, "updates: expected >= 1, got 0"),
        ((Unstructured(0.5), Magnitude(), 2.0), TypeError, "updates: expected an integer, got float"),
        ((Unstructured(0.5), Magnitude(), 2, 1.0), ValueError, "end: expected below 1"),
    ):
        with pytest.raises(error, match=text):
            Gradual(*arguments)
    with pytest.raises(TypeError, match=r"gradual: expected Gradual\(pattern\) or None, got Unstructured"):
        Distill(gradual=Unstructured(0.5))
