"""balance_: levels by measured time and error; what it promises without a clock."""

import json

import pytest
import small_models
import torch
from small_models import Sizes
from torch import nn
from torch.nn.utils import prune as torch_prune

from prunus import nn as prunus_nn
from prunus._tools.timing import Times
from prunus.balance import Target, balance_
from prunus.balance import verb as balance
from prunus.balance.pace import Pace
from prunus.balance.table import AT_LEAST, AT_MOST, Table, Turns
from prunus.methods import Magnitude, Method, SparseGPT, Wanda
from prunus.patterns import NM, Block, Unstructured
from prunus.prune.influence import Influence


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32))


X = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fixed_times(monkeypatch):
    """A machine where a dense layer takes 10 ms and a share s of zeros saves the share s of it."""

    def measure(model, sites, batches, levels, seconds):
        names = [site.name for site in sites]
        ms = [10.0 * (1.0 - level.sparsity) for level in levels]
        return Table(10.0 * len(names) + 5.0, dict.fromkeys(names, 10.0), {name: list(ms) for name in names})

    monkeypatch.setattr(balance, "measure", measure)
    monkeypatch.setattr(balance, "rehearse", whole_model(1.0))


def whole_model(share):
    """A machine where all layers together gain a share of what each of them gains alone."""

    def rehearse(model, sites, batches, levels, seconds):
        gained = sum(10.0 * levels[site.name].sparsity for site in sites if site.name in levels)
        rehearse.seen.append(gained)
        return 1.0 - share * gained / (10.0 * len(sites) + 5.0)

    rehearse.seen = []
    return rehearse


@pytest.mark.parametrize("method", [Wanda(), Magnitude(), SparseGPT()], ids=str)
@pytest.mark.parametrize(
    "pattern", [Unstructured(0.1), Unstructured(0.1, scope="row"), Block((4, 4), 0.1)], ids=str
)
def test_the_predicted_time_meets_the_target(fixed_times, method, pattern):
    model = stack()
    report = balance_(model, X, Target(speedup=1.75, pattern=pattern, levels=(0.5, 0.75, 0.9)), method)
    s = report.summary
    assert s["target_ms"] == pytest.approx(20.0)
    assert s["predicted_ms"] <= s["target_ms"] + 1e-9
    assert s["predicted_ms"] == pytest.approx(35.0 - sum(10.0 - row["predicted_ms"] for row in report.rows))
    for row in report.rows:
        assert row["predicted_ms"] == pytest.approx(10.0 * (1.0 - round(row["sparsity"], 1)), abs=0.6)
    assert sum(10.0 * level for level in (0.5, 0.5, 0.5)) >= 15.0  # the cheapest answer: half of each
    assert s["predicted_ms"] > 17.0
    assert s["off"] == pytest.approx(s["predicted_speedup"] / s["measured_speedup"] - 1.0)
    assert json.loads(report.to_json())["summary"]["layers"] == 3
    assert "measured" in str(report)
    assert set(report.pruned.pruned) == {"0", "2", "4"}
    assert {row["name"] for row in report.accelerated.rows} == {"0", "2", "4"}


@pytest.mark.parametrize(("share", "times"), [(0.8, 2), (1.25, 2), (0.99, 1)])
def test_levels_are_chosen_again_where_the_model_gains_another_time(fixed_times, monkeypatch, share, times):
    rehearsal = whole_model(share)
    monkeypatch.setattr(balance, "rehearse", rehearsal)
    levels = tuple(i / 40 for i in range(1, 40))
    report = balance_(stack(), X, Target(ms=23.0, levels=levels))
    s = report.summary
    # 12 of 35 ms must go; a model that gains 0.8 of what its layers promise needs 15 ms of promises.
    assert len(rehearsal.seen) == times
    assert s["predicted_ms"] == pytest.approx(35.0 - share * rehearsal.seen[-1])
    assert s["predicted_ms"] == pytest.approx(23.0, abs=0.4)


def test_rehearsals_end(fixed_times, monkeypatch):
    answers = iter((0.99, 0.5, 0.99, 0.5, 0.99))
    monkeypatch.setattr(balance, "rehearse", lambda *args, **_: next(answers))
    report = balance_(stack(), X, Target(ms=30.0, levels=(0.3, 0.6, 0.9)))
    assert next(answers) in (0.5, 0.99)
    assert report.summary["predicted_ms"] in (35.0 * 0.99, 35.0 * 0.5)


@pytest.mark.parametrize("fails", [False, True])
def test_masks_of_torch_are_folded_or_put_back(fixed_times, monkeypatch, fails):
    model = stack()
    torch_prune.l1_unstructured(model[2], "weight", 0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "2.weight_mask" in before
    target = Target(speedup=1.5, levels=(0.5, 0.9))
    if fails:

        def breaks(*args, **kwargs):
            raise RuntimeError("broke")

        monkeypatch.setattr(balance, "accelerate_", breaks)
        with pytest.raises(RuntimeError, match="broke"):
            balance_(model, X, target)
        assert list(model.state_dict()) == list(before)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        return
    report = balance_(model, X, target)
    assert {row["name"] for row in report.rows} == {"0", "2", "4"}
    note = next(row["note"] for row in report.pruned.rows if row["name"] == "2")
    assert note == "folded torch.nn.utils.prune mask"
    assert not any("mask" in name or "orig" in name for name in model.state_dict())


def test_pairs_outlast_a_slow_phase():
    """A machine that is three times slower for half of the turns: the ratio does not see it."""
    turns = Turns(Times([1.0, 1.0, 3.0, 3.0, 3.0]), Times([2.0, 2.0, 6.0, 6.0, 6.3]))
    assert turns.ratio == 2.0
    assert turns.spread == pytest.approx(0.025)
    assert Turns(Times([1.0]), Times([2.0])).spread == 0.0


def test_turns_end_where_the_ratio_is_settled():
    steady, noisy = Turns(), Turns()
    for i in steady.rounds(1e9):
        steady.first.seconds.append(1.0 + i)
        steady.second.seconds.append(2.0 + 2.0 * i)
    for i in noisy.rounds(1e9):
        noisy.first.seconds.append(1.0)
        noisy.second.seconds.append(1.0 + i % 2)
    assert len(steady.ratios) == AT_LEAST + 1
    assert len(noisy.ratios) == AT_MOST


def test_the_layer_that_minds_least_pays(fixed_times):
    """Layer 2 sees inputs of rank one: SparseGPT prunes it nearly for free."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.hard, self.easy = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            return self.hard(x) + self.easy(x[:, :1].expand_as(x))

    target = Target(ms=25.0 - 9.0, levels=(0.3, 0.6, 0.9))
    report = balance_(Two(), X, target, SparseGPT())
    sparsity = {row["name"]: row["sparsity"] for row in report.rows}
    assert sparsity["easy"] > sparsity["hard"] + 0.25
    assert report.summary["predicted_ms"] <= 16.0


def test_fused_parts_share_one_level(fixed_times, build):
    torch.manual_seed(0)
    model = small_models.build("gpt2", Sizes(hidden=32, layers=1, width=None))
    ids = torch.arange(12)[None]
    report = balance_(model, {"input_ids": ids}, Target(speedup=1.5))
    assert [row["name"] for row in report.rows] == report.pruned.pruned
    with torch.no_grad():
        assert model(ids).logits.shape == (1, 12, 60)


class Breaks(Method):
    def __init__(self):
        object.__setattr__(self, "steps", 1)
        object.__setattr__(self, "repair", False)
        object.__setattr__(self, "left", [7])

    def prune(self, weight, stats, pattern):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise RuntimeError("broke")
        return Magnitude().prune(weight, stats, pattern)


@pytest.mark.parametrize("where", ["method", "accelerate"])
@pytest.mark.parametrize("method", [Wanda(), Magnitude()], ids=str)
def test_an_error_leaves_the_model_as_it_was(fixed_times, monkeypatch, where, method):
    model = stack().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if where == "accelerate":

        def fails(*args, **kwargs):
            raise RuntimeError("broke")

        monkeypatch.setattr(balance, "accelerate_", fails)
    else:
        method = Breaks()
    with pytest.raises(RuntimeError, match="broke"):
        balance_(model, X, Target(speedup=1.5, levels=(0.5, 0.9)), method)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert list(model.state_dict()) == list(before)
    assert all(type(module) is not prunus_nn.SparseLinear for module in model)
    assert model.training
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_target_out_of_reach_is_an_error_and_changes_nothing(fixed_times):
    model = stack()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sentence = r"target: expected at least 6.50 ms \(5.38x\), the fastest .*, got 3.50 ms \(10.00x\)"
    with pytest.raises(ValueError, match=sentence):
        balance_(model, X, Target(speedup=10.0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_table_is_measured_in_the_running_model():
    model = stack()
    report = balance_(model, X, Target(speedup=1.0, levels=(0.5, 0.9)))
    assert all(row["dense_ms"] > 0 for row in report.rows)
    assert all(row["sparsity"] == 0 for row in report.rows)  # nothing to gain was asked for
    assert report.summary["dense_ms"] > 0
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_slower_form_saves_nothing():
    table = Table(30.0, {"a": 10.0}, {"a": [12.0, 8.0]})
    assert table.gains("a") == [0.0, 2.0]
    assert table.gains("b") == []


def test_filter_fn_and_calibration_are_those_of_prune(fixed_times):
    report = balance_(
        stack(), X, Target(speedup=1.1), Wanda(), [X[:8]], filter_fn=lambda module, name: name == "2"
    )
    assert [row["name"] for row in report.rows] == ["2"]
    with pytest.raises(ValueError, match="model: expected a Linear layer that can be pruned and converted"):
        balance_(stack(), X, Target(speedup=1.1), filter_fn=lambda module, name: False)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Target(), ValueError, "target: expected either speedup or ms, got neither"),
        (lambda: Target(speedup=2, ms=3), ValueError, "target: expected either speedup or ms, got both"),
        (lambda: Target(speedup=0.5), ValueError, "speedup: expected >= 1, got 0.5"),
        (lambda: Target(ms=0), ValueError, "ms: expected > 0, got 0"),
        (
            lambda: Target(ms=1, pattern=NM(2, 4)),
            TypeError,
            "expected Unstructured or Block, got NM",
        ),
        (lambda: Target(ms=1, pattern=Unstructured(0.5, "model")), ValueError, "expected scope .* got model"),
        (lambda: balance_(stack(), X, 1.5), TypeError, r"target: expected a Target such as .*, got float"),
        (lambda: balance_(3, X, Target(ms=1)), TypeError, "model: expected a torch.nn.Module, got int"),
    ],
)
def test_wrong_arguments_are_named(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_pace_spreads_what_time_allows(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("prunus.balance.pace.time.perf_counter", lambda: clock[0])
    pace, allowed = Pace(4.0, 20), []
    for i in range(20):
        if pace.allows(str(i)):
            allowed.append(i)
            clock[0] += 1.0
            pace.done()
    assert allowed == [0, 5, 10, 15]
    assert Pace(4.0, 0).allows("a")


@pytest.mark.parametrize("minutes", [1e-9, 60.0])
def test_a_slow_model_is_tried_less_often(monkeypatch, minutes):
    """With no time left: two passes a level instead of five, one trial on the whole model."""
    model, passes, felt = stack(), [], []
    model.register_forward_hook(lambda *_: passes.append(1))
    of = Influence.of
    monkeypatch.setattr(Influence, "of", lambda *args: felt.append(1) or of(*args))
    monkeypatch.setattr(balance.Target, "wanted_ms", lambda self, ms: ms)
    report = balance_(model, X, Target(speedup=1.0, levels=(0.5, 0.9), minutes=minutes))
    assert len(felt) == (1 if minutes < 1 else 3)
    assert report.summary["layers"] == 3
    assert report.summary["seconds"] > 0
    assert "took" in str(report)
    levels = 2 * (2 + 2 * (2 if minutes < 1 else 5))
    assert len(passes) >= levels
    assert (len(passes) < 80) == (minutes < 1)


def test_minutes_are_positive():
    with pytest.raises(ValueError, match="minutes: expected > 0, got 0"):
        Target(speedup=1.5, minutes=0)


def test_a_floor_of_quality_stops_it(fixed_times):
    model = stack()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"max_error: expected .* 0\.001 .*, got 0\.\d+: ask for"):
        balance_(model, X, Target(speedup=1.75, levels=(0.5, 0.9), max_error=1e-3))
    assert all(type(layer) in (nn.Linear, nn.ReLU) for layer in model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    report = balance_(model, X, Target(speedup=1.75, levels=(0.5, 0.9), max_error=2.0))
    assert 0.0 < report.summary["error"] <= 2.0
    assert f"outputs changed by {report.summary['error']:.1%}" in str(report)
    with pytest.raises(ValueError, match="max_error: expected > 0, got 0"):
        Target(speedup=2.0, max_error=0)
