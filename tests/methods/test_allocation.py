"""Sharing a budget among layers."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunus.allocation import OWL, Allocation, Sensitivity, Survey, choose_levels, output_error, weigh
from prunus.calibration import Calibration, Stats
from prunus.methods import Magnitude, SparseGPT, Wanda
from prunus.patterns import NM, Block, Unstructured
from prunus.prune import prune_
from prunus.prune.influence import Influence

LEVEL = st.tuples(st.integers(0, 50), st.integers(0, 20))  # error, gain


@given(
    st.lists(st.lists(LEVEL, min_size=1, max_size=4), min_size=1, max_size=5),
    st.floats(0, 1),
)
def test_levels_are_the_best_of_all_combinations(layers, share):
    errors = [[e for e, _ in layer] for layer in layers]
    gains = [[g for _, g in layer] for layer in layers]
    most = sum(max(gain) for gain in gains)
    target = int(share * most)  # whole numbers and grains that divide them: exact
    found = choose_levels(errors, gains, target, buckets=max(1, target))
    cost, gain = (sum(t[i] for t, i in zip(table, found, strict=True)) for table in (errors, gains))
    assert gain >= target
    every = itertools.product(*[range(len(layer)) for layer in layers])
    best = min(
        sum(e[i] for e, i in zip(errors, levels, strict=True))
        for levels in every
        if sum(g[i] for g, i in zip(gains, levels, strict=True)) >= target
    )
    assert cost == best


def test_levels_that_cannot_reach_the_target_are_an_error():
    with pytest.raises(ValueError, match="target: expected at most 3, got 4"):
        choose_levels([[0.0], [0.0]], [[1.0], [2.0]], 4.0)
    assert choose_levels([[0.0, 1.0]], [[1.0, 3.000001]], 3.000001, buckets=7) == [1]


MODEL = Unstructured(0.5, scope="model")


def rows(report):
    return {row["name"]: row["sparsity"] for row in report.rows if row["status"] == "pruned"}


def outliers() -> tuple[nn.Module, list[torch.Tensor]]:
    """Layer 0 sees one input a hundred times the others: a few of its products are far above the mean."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32))
    x = torch.randn(200, 64)
    x[:, 5] *= 100.0
    return model, [x]


@pytest.mark.parametrize(
    "pattern", [Unstructured(0.7), Unstructured(0.95, "row"), Block((4, 4), 0.5)], ids=str
)
def test_owl_spares_the_layer_with_outliers(pattern):
    model, x = outliers()
    report = prune_(model, OWL(pattern), Magnitude(), x)
    assert rows(report)["0"] < pattern.sparsity < rows(report)["2"]
    assert report.summary["sparsity"] == pytest.approx(pattern.sparsity, abs=0.01)
    assert rows(report)["2"] - rows(report)["0"] <= 2 * 0.08 + 0.02


def test_owl_of_equal_layers_is_uniform():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    report = prune_(model, OWL(Unstructured(0.5)), Magnitude(), [torch.eye(8)])
    assert rows(report) == {"0": 0.5, "1": 0.5}


@pytest.mark.parametrize("pattern", [Unstructured(0.6), NM(2, 4), Block((2, 2), 0.5)], ids=str)
@pytest.mark.parametrize("method", [Wanda(), SparseGPT()], ids=str)
def test_sensitivity_meets_the_budget(transformer, batches, method, pattern):
    report = prune_(transformer, Sensitivity(pattern), method, batches)
    assert report.summary["sparsity"] >= pattern.sparsity - 1e-3
    assert report.summary["sparsity"] <= pattern.sparsity + 0.05
    assert len(set(rows(report).values())) > 1


def test_sensitivity_loses_less_than_uniform_by_its_own_measure():
    """One layer is nearly free to prune (rank one inputs), the other is not."""
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.easy, self.hard = nn.Linear(50, 40, bias=False), nn.Linear(50, 40, bias=False)

        def forward(self, x):
            return self.easy(x[..., :1].expand_as(x)), self.hard(x)

    model, x = Two(), torch.randn(300, 50)
    uniform = copy.deepcopy(model)
    before = {name: layer.weight.detach().clone() for name, layer in model.named_children()}
    seen = {"easy": x[:, :1].expand_as(x), "hard": x}

    def lost(pruned):
        layers = {name: pruned.get_submodule(name).weight.detach() for name in seen}
        stats = {name: Stats(name, len(x), gram=inputs.t() @ inputs) for name, inputs in seen.items()}
        return sum(output_error(before[name], layers[name], stats[name]) for name in seen)

    levels = (0.1, 0.3, 0.5, 0.7, 0.9)
    report = prune_(model, Sensitivity(Unstructured(0.5), levels), SparseGPT(), [x])
    prune_(uniform, Unstructured(0.5), SparseGPT(), [x])
    assert rows(report)["easy"] > rows(report)["hard"]
    assert report.summary["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert lost(model) < 0.7 * lost(uniform)


def test_output_error_is_that_of_the_outputs():
    x, w, v = torch.randn(50, 9), torch.randn(4, 9), torch.randn(4, 9)
    expected = (x @ (v - w).t()).square().sum() / (x @ w.t()).square().sum()
    assert output_error(w, v, Stats("fc", 50, gram=x.t() @ x)) == pytest.approx(float(expected), rel=1e-4)
    assert output_error(w * 0, v, Stats("fc", 50, gram=x.t() @ x)) == 0.0


class Loud(nn.Module):
    """Twins with outputs that count a thousand to one."""

    def __init__(self):
        super().__init__()
        self.loud, self.quiet = nn.Linear(50, 40, bias=False), nn.Linear(50, 40, bias=False)

    def forward(self, x):
        return self.loud(x) + 1e-3 * self.quiet(x)


def test_sensitivity_spares_what_the_model_feels():
    torch.manual_seed(0)
    model = Loud()
    report = prune_(
        model, Sensitivity(Unstructured(0.5), (0.0, 0.25, 0.5, 0.75)), Wanda(), [torch.randn(99, 50)]
    )
    assert rows(report) == {"loud": pytest.approx(0.25, abs=0.01), "quiet": pytest.approx(0.75, abs=0.01)}


def test_influence_asks_without_a_trace_and_without_padding():
    torch.manual_seed(0)
    model, x = Loud(), torch.randn(3, 4, 50)
    real = torch.tensor([[True] * 4, [True, False, True, False], [True] * 4])
    calibration = Calibration(x, real=lambda batch: real)
    weight, trial = model.loud.weight.detach(), torch.randn(40, 50)
    old = weight.clone()
    with torch.no_grad():
        before = model(x)[real]
        felt = Influence(model, calibration).of(weight, trial)
        assert torch.equal(model.loud.weight, old)
        weight.copy_(trial)
        expected = (model(x)[real] - before).square().sum() / before.square().sum()
    assert felt == pytest.approx(float(expected), rel=1e-5)


def test_influence_is_unknown_without_outputs():
    model, x = Loud(), torch.randn(3, 50)
    calibration = Calibration(x, forward=lambda model, batch: [model(batch), None][1])
    assert Influence(model, calibration).of(model.loud.weight.detach(), torch.zeros(40, 50)) is None
    prune_(model, Sensitivity(Unstructured(0.5)), Wanda(), calibration)


def test_what_is_not_felt_counts_like_the_median():
    errors = {(name, ""): [0.0, 0.5] for name in "abcd"} | {("e", ""): [0.0, 0.0]}
    felt = {("a", ""): 0.1, ("b", ""): 0.2, ("c", ""): 1.0, ("d", ""): 0.0, ("e", ""): 3.0}
    found = weigh(errors, felt, tried=1)
    assert [every[1] for every in found.values()] == pytest.approx([0.1, 0.2, 1.0, 0.2, 0.0])


def test_an_allocation_of_ones_own(build):
    class First(Allocation):
        """Half of the first layer seen, a quarter of the others."""

        def needs(self, method):
            return frozenset()

        def survey(self, method):
            found = {}

            class Seen(Survey):
                def see(self, key, weight, stats):
                    found[key] = Unstructured(0.25 if found else 0.5)

                def patterns(self):
                    return found

            return Seen()

    assert list(rows(prune_(build("plain"), First())).values()) == [0.5, 0.25, 0.25]


def test_allocations_need_a_calibration(build):
    with pytest.raises(ValueError, match="calibration: expected batches of sample inputs for OWL, got None"):
        prune_(build("plain"), OWL(Unstructured(0.5)))


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: OWL(NM(2, 4)), TypeError, "pattern: expected Unstructured or Block, got NM"),
        (lambda: OWL(MODEL), ValueError, "pattern: expected scope .*, got model"),
        (lambda: OWL(Unstructured(0.5), spread=0.6), ValueError, r"spread: expected 0\.\.0\.5, got 0\.6"),
        (lambda: OWL(Unstructured(0.5), outlier=0), ValueError, "outlier: expected > 0, got 0"),
        (lambda: Sensitivity(0.5), TypeError, "pattern: expected Unstructured, NM or Block, got float"),
        (
            lambda: Sensitivity(MODEL),
            ValueError,
            "pattern: expected scope .*, got model",
        ),
        (
            lambda: Sensitivity(Unstructured(0.97)),
            ValueError,
            "levels: expected one >= 0.97, got at most",
        ),
    ],
)
def test_wrong_options_are_named(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
