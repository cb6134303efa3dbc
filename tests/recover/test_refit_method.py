"""Refit: least squares block by block, undone where it does not help."""

import copy
from typing import Any

import pytest
import torch
from recover_models import batches_for, pruned_pair, same, teacher_of, weights_of, zeros_of
from torch import nn

import prunus
from prunus import Distill, RecoverError, Refit, recover_


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "plain"])
def test_quality_rises_and_zeros_stay(kind: str) -> None:
    model, teacher = pruned_pair(kind)
    zeros = zeros_of(model)
    report = recover_(model, teacher, batches_for(kind, 60), Refit())
    s = report.summary
    better = "divergence" if s["figure"] == "agreement" else "relative_error"
    assert s[f"after_{better}"] < 0.9 * s[f"before_{better}"]
    assert all(bool(zeros_of(model)[name][where].all()) for name, where in zeros.items())
    assert report.rows[0]["layers"] == {"bert": 12, "gpt2": 8, "llama": 14, "plain": 2}[kind]
    assert not any(module._forward_hooks for module in (*model.modules(), *teacher.modules()))


def test_one_layer_is_what_numpy_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(12, 12, generator=generator)
    x = [torch.randn(40, 12, generator=generator) @ mixed + 0.5 for _ in range(9)]
    teacher = nn.Sequential(nn.Linear(12, 5))
    model = copy.deepcopy(teacher)
    prunus.prune_(model, prunus.Unstructured(0.5))
    mask = model[0].weight.detach() != 0
    data = prunus.Batches(x[:8], x[8:])
    recover_(model, teacher, data, Refit(damping=1e-6))
    inputs, wanted = torch.cat(x[:8]), teacher(torch.cat(x[:8])).detach()
    ones = torch.ones(len(inputs), 1)
    for row in range(5):
        columns = torch.cat([inputs[:, mask[row]], ones], 1).double()
        goal = wanted[:, row : row + 1].double()
        best = torch.linalg.lstsq(columns, goal).solution
        mine = torch.cat([model[0].weight[row, mask[row]], model[0].bias[row : row + 1]]).detach().double()
        errors = [float((columns @ v - goal[:, 0]).square().sum()) for v in (mine, best[:, 0])]
        assert errors[0] <= 1.001 * errors[1] + 1e-6


def test_layers_that_lost_outputs_are_left_and_said() -> None:
    teacher = teacher_of("bert")
    model = copy.deepcopy(teacher)
    data = batches_for("bert", 60)
    prunus.shrink_(model, prunus.Neurons(0.5))
    before = weights_of(model)
    report = recover_(model, teacher, data, Refit())
    assert report.summary["after"] > report.summary["before"]
    assert report.summary["notes"] == ["Refit left 2 layers that lost outputs as they are"]
    after = weights_of(model)
    lost = "encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(before[lost], after[lost])
    assert not torch.equal(
        before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"]
    )


def test_padding_is_not_fitted() -> None:
    found = []
    for word in (0, 7):
        model, teacher = pruned_pair("bert")
        data = batches_for("bert", 40)
        for batch in data:
            batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, word)
        recover_(model, teacher, data, Refit())
        found.append(weights_of(model))
    assert all(torch.allclose(found[0][name], found[1][name], atol=2e-3) for name in found[0])


def test_what_makes_it_worse_is_undone() -> None:
    model, teacher = pruned_pair("bert")
    data = batches_for("bert", 40)
    recover_(model, teacher, data, Distill(steps=150))
    before = weights_of(model)
    report = recover_(model, teacher, data[:3], Refit(tokens=30))  # far fewer tokens than weights
    assert report.rows[0]["note"].startswith("undone: cosine")
    assert same(before, weights_of(model))


def test_filter_fn() -> None:
    model, teacher = pruned_pair("bert")
    before = weights_of(model)
    recover_(model, teacher, batches_for("bert", 40), Refit(), lambda module, name: "layer.0" in name)
    changed = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
    assert changed
    assert all("layer.0" in name for name in changed)


def test_then_distill() -> None:
    model, teacher = pruned_pair("bert")
    report = recover_(model, teacher, batches_for("bert", 40), [Refit(), Distill(steps=40)])
    first, second = report.rows
    assert first["before"] < first["after"] == second["before"] < second["after"]
    assert [row["method"] for row in report.curve][:2] == ["before", "Refit"]


class Stops(nn.Module):
    """Raises after some calls."""

    def __init__(self, inner: nn.Module, calls: int, what: BaseException) -> None:
        super().__init__()
        self.inner, self.calls, self.what = inner, calls, what

    def forward(self, x: Any) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise self.what
        return self.inner(x)


@pytest.mark.parametrize("what", [RuntimeError("no"), KeyboardInterrupt()])
def test_an_error_or_ctrl_c_puts_everything_back(what: BaseException) -> None:
    model, teacher = pruned_pair("bert")
    inner = teacher.encoder.layer[1].output
    # Two of each: the check before, quality, and the first block; then the second block.
    data = batches_for("bert", 12)
    teacher.encoder.layer[1].output.dropout = Stops(inner.dropout, 10, what)
    before = weights_of(model)
    if isinstance(what, KeyboardInterrupt):
        with pytest.warns(UserWarning, match="interrupted; the model is as it was before Refit"):
            report = recover_(model, teacher, data, [Refit(), Distill(steps=2)])
        assert len(report.rows) == 1
    else:
        with pytest.raises(RecoverError, match="Refit stopped by no; the model is as it was before Refit"):
            recover_(model, teacher, data, Refit())
    assert same(before, weights_of(model))


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"tokens": 0}, ValueError, "tokens: expected >= 1, got 0"),
        ({"tokens": 1.5}, TypeError, "tokens: expected an integer, got float"),
        ({"damping": 0.0}, ValueError, "damping: expected a finite number > 0, got 0.0"),
        ({"damping": float("nan")}, ValueError, "damping"),
    ],
)
def test_options(options: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        Refit(**options)


def test_nothing_to_refit_is_an_error() -> None:
    model, teacher = pruned_pair("plain")
    with pytest.raises(ValueError, match="as many outputs as the teacher's, got none"):
        recover_(model, teacher, batches_for("plain"), Refit(), lambda module, name: False)
