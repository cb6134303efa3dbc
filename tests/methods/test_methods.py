"""Every method with every pattern, and what each promises on its own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunus.calibration import Calibration, Stats
from prunus.masks import select
from prunus.methods import (
    SNIP,
    Magnitude,
    Method,
    Random,
    SparseGPT,
    Taylor,
    Wanda,
    cuts,
    least_squares,
)
from prunus.patterns import NM, Block, Unstructured
from prunus.prune import prune_

PATTERNS = [
    Unstructured(0.6),
    Unstructured(0.6, scope="row"),
    Unstructured(0.6, scope="column"),
    NM(1, 4),
    NM(5, 8),
    Block((4, 4), 0.6),
    Block((1, 8), 0.6),
    Block((3, 5), 0.6),
]


def loss(model, batch):
    return model(batch).square().mean()


METHODS = [
    Magnitude(),
    Magnitude("row"),
    Magnitude("column"),
    Random(),
    Wanda(),
    SparseGPT(),
    SparseGPT(block=7),
    Taylor(loss),
    SNIP(loss),
]


def correlated(tokens: int, k: int, seed: int = 0) -> torch.Tensor:
    """Inputs (tokens, k) that mostly live in a quarter of the dimensions, with scales over a decade."""
    generator = torch.Generator().manual_seed(seed)
    few = -(-k // 4)
    hidden = torch.randn(tokens, few, generator=generator) @ torch.randn(few, k, generator=generator)
    scales = torch.logspace(-0.5, 0.5, k)[torch.randperm(k, generator=generator)]
    return (hidden / few**0.5 + 0.3 * torch.randn(tokens, k, generator=generator)) * scales


def stats_of(x: torch.Tensor) -> Stats:
    return Stats("fc", len(x), x.double().square().sum(0), x.t() @ x)


def weight(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed + 100))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_fills_the_budget_of_every_pattern(method, pattern):
    model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 13))
    report = prune_(model, pattern, method, [correlated(50, 16)])
    for layer in (model[0], model[2]):
        kept = layer.weight != 0
        n, k = kept.shape
        if isinstance(pattern, NM):
            assert bool((kept.reshape(n, k // pattern.m, pattern.m).sum(-1) == pattern.n).all())
        elif isinstance(pattern, Block):
            rows, columns = pattern.shape
            blocks = [b for strip in kept.split(rows) for b in strip.split(columns, dim=1)]
            assert all(bool(b.all()) or not bool(b.any()) for b in blocks)
            assert sum(not bool(b.any()) for b in blocks) == int(0.6 * len(blocks) + 0.5)
        else:
            groups = {"tensor": kept.reshape(1, -1), "row": kept, "column": kept.t()}[pattern.scope]
            size = groups.shape[1]
            assert bool(((~groups).sum(1) == int(0.6 * size + 0.5)).all())
    assert report.summary["layers"] == 2


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_nothing_and_everything(method):
    x = [correlated(20, 8)]
    for sparsity, zeros in ((0.0, 0), (1.0, 64)):
        model = nn.Sequential(nn.Linear(8, 8))
        before = model[0].weight.detach().clone()
        prune_(model, Unstructured(sparsity), method, x)
        assert int((model[0].weight == 0).sum()) == zeros
        if sparsity == 0.0:
            assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 129), (33, 128)], ids=str)
@pytest.mark.parametrize("method", [Magnitude("column"), Wanda(), SparseGPT(), Wanda(repair=True)], ids=str)
def test_odd_shapes(method, shape):
    n, k = shape
    model = nn.Sequential(nn.Linear(k, n))
    report = prune_(model, Unstructured(0.5), method, [correlated(40, k)])
    assert report.summary["zeros"] == int(0.5 * n * k + 0.5)


def test_wanda_is_weight_times_input_norm():
    w, x = weight(6, 9), correlated(50, 9)
    expected = w.abs().double() * x.double().norm(dim=0)
    assert torch.allclose(Wanda().scores(w, stats_of(x)).double(), expected, rtol=1e-6)


def test_equal_input_norms_make_wanda_magnitude():
    w, x = weight(8, 16), torch.eye(16) * 3.0
    mask, new = Wanda().prune(w, stats_of(x), Unstructured(0.5))
    assert new is None
    assert torch.equal(mask, select(w.abs(), Unstructured(0.5)))


def naive_obs(w, gram, damping, block, choose):
    """SparseGPT by the book: a fresh inverse of what is left for every column, float64."""
    w, h = w.double().clone(), gram.double() + damping * torch.diag(gram.double().diagonal())
    k = w.shape[1]
    mask = torch.ones(w.shape, dtype=torch.bool)
    fixed = torch.zeros_like(w)
    for start in range(0, k, block):
        stop = min(start + block, k)
        scores = torch.empty_like(w)
        for j in range(k):
            scores[:, j] = w[:, j] ** 2 / torch.linalg.inv(h[j:, j:])[0, 0]
        scores[:, :start] = fixed[:, :start]
        mask[:, start:stop] = choose(scores)[:, start:stop]
        fixed[:, start:stop] = torch.where(mask[:, start:stop], torch.inf, -torch.inf)
        for j in range(start, stop):
            inverse = torch.linalg.inv(h[j:, j:])
            error = torch.where(mask[:, j], 0.0, w[:, j]) / inverse[0, 0]
            w[:, j:] -= error[:, None] * inverse[0][None]
            w[~mask[:, j], j] = 0.0
    return mask, w


@pytest.mark.parametrize("block", [1, 5, 8, 24])
@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_sparsegpt_is_the_naive_surgeon(block, scope):
    w, x = weight(7, 24), correlated(60, 24)
    pattern = Unstructured(0.6, scope=scope)
    mask, new = SparseGPT(block=block).prune(w, stats_of(x), pattern)
    expected_mask, expected = naive_obs(w, x.t() @ x, 0.01, block, lambda s: select(s, pattern))
    assert torch.equal(mask, expected_mask)
    assert torch.allclose(new.double(), expected, rtol=1e-3, atol=1e-5)


def test_sparsegpt_decides_n_m_groups_and_columns_when_it_gets_there():
    w, x = weight(7, 24), correlated(60, 24)
    for pattern, block in ((NM(2, 4), 4), (Unstructured(0.5, scope="column"), 1)):
        mask, new = SparseGPT().prune(w, stats_of(x), pattern)
        expected_mask, expected = naive_obs(w, x.t() @ x, 0.01, block, lambda s, p=pattern: select(s, p))
        assert torch.equal(mask, expected_mask)
        assert torch.allclose(new.double(), expected, rtol=1e-3, atol=1e-5)


def test_sparsegpt_in_float64():
    w, x = weight(7, 24), correlated(60, 24)
    _, new = SparseGPT().prune(w.double(), stats_of(x), Unstructured(0.5))
    assert new.dtype == torch.float64


@pytest.mark.parametrize("size", [1.0, 1e-3])
@pytest.mark.parametrize("method", [SparseGPT(), Wanda(repair=True)], ids=str)
def test_dead_inputs_go_first_and_break_nothing(method, size):
    x = correlated(60, 24) * size  # however small the live ones are
    x[:, [3, 17]] = 0.0
    model = nn.Sequential(nn.Linear(24, 10))
    prune_(model, Unstructured(0.5), method, [x])
    assert bool((model[0].weight[:, [3, 17]] == 0).all())
    assert bool(torch.isfinite(model[0].weight).all())
    assert int((model[0].weight == 0).sum()) == 120


@pytest.mark.parametrize("method", [SparseGPT(), SparseGPT(damping=1e-9), Wanda(repair=True)], ids=str)
def test_fewer_tokens_than_inputs_and_copies_of_inputs(method):
    """X^T X of rank 5: only damping makes it invertible, and 1e-9 is not enough at once."""
    x = correlated(5, 40)
    x[:, 20:] = x[:, :20]
    model = nn.Sequential(nn.Linear(40, 10))
    old = model[0].weight.detach().clone()
    prune_(model, Unstructured(0.5), method, [x])
    assert bool(torch.isfinite(model[0].weight).all())
    lost = ((model[0].weight - old) @ x.t()).square().sum() / (old @ x.t()).square().sum()
    assert lost < 0.05


def test_a_gram_that_is_hopeless_is_an_error():
    stats = Stats("fc", 1, gram=torch.tensor([[1.0, 1e9], [1e9, 1.0]]))
    with pytest.raises(ValueError, match=r"calibration: expected a positive definite X\^T X"):
        SparseGPT().prune(torch.ones(1, 2), stats, Unstructured(0.5))


@given(
    n=st.integers(1, 6),
    k=st.integers(1, 12),
    tokens=st.integers(1, 30),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_least_squares_is_the_best_on_the_mask(n, k, tokens, sparsity, seed):
    w, x = weight(n, k, seed).double(), correlated(tokens, k, seed).double()
    mask = select(w.abs(), Unstructured(sparsity))
    gram = x.t() @ x
    damped = gram + 0.01 * torch.diag(gram.diagonal())
    new = least_squares(w, mask, gram)
    assert bool((new[~mask] == 0).all())

    def cost(v):
        return (((v - w) @ damped) * (v - w)).sum(1)

    for i in range(n):
        kept = mask[i]
        best = torch.zeros(k, dtype=torch.float64)
        if bool(kept.any()):
            best[kept] = torch.linalg.solve(damped[kept][:, kept], (damped @ w[i])[kept])
        total = w[i] @ damped @ w[i]
        assert cost(new)[i] <= cost(best[None].expand(n, k))[i] + 1e-6 * total
    assert bool((cost(new) <= cost(w * mask) + 1e-9 * cost(torch.zeros_like(w))).all())


def test_least_squares_names_wrong_shapes():
    w = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"mask: expected shape \(2, 3\), got \(3, 2\)"):
        least_squares(w, torch.ones(3, 2, dtype=torch.bool), torch.eye(3))
    with pytest.raises(ValueError, match=r"gram: expected shape \(3, 3\), got \(2, 2\)"):
        least_squares(w, torch.ones(2, 3, dtype=torch.bool), torch.eye(2))


def output_error(method, pattern, seed):
    """Relative squared error of one layer's outputs after pruning it."""
    w, x = weight(32, 48, seed), correlated(600, 48, seed)
    model = nn.Sequential(nn.Linear(48, 32, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(w)
    prune_(model, pattern, method, [x])
    return float(((model[0].weight.detach() - w) @ x.t()).square().sum() / (w @ x.t()).square().sum())


@pytest.mark.parametrize(
    "pattern", [Unstructured(0.5), Unstructured(0.6, scope="row"), NM(2, 4), Block((1, 4), 0.5)], ids=str
)
def test_better_methods_lose_less(pattern):
    """On correlated inputs of different scale, by the mean of five layers."""

    def mean(method):
        return sum(output_error(method, pattern, seed) for seed in range(5)) / 5

    order = [mean(m) for m in (SparseGPT(), Wanda(), Magnitude(), Random())]
    assert order[0] < 0.9 * order[1]
    assert order[1] < 0.9 * order[2]
    assert order[2] < 0.9 * order[3]
    assert mean(Wanda(repair=True)) < 0.8 * order[1]
    assert mean(SparseGPT(repair=True)) < 0.95 * order[0]


def test_gradient_scores_follow_their_formulas():
    w = weight(3, 4)
    g = [weight(3, 4, seed) for seed in (1, 2)]
    stats = Stats("fc", 2, grad_sum=g[0] + g[1], grad_sq=g[0] ** 2 + g[1] ** 2)
    assert torch.allclose(Taylor(loss).scores(w, stats), (w * g[0]) ** 2 + (w * g[1]) ** 2)
    assert torch.allclose(SNIP(loss).scores(w, stats), (w * (g[0] + g[1])).abs())


def test_gradients_of_transposed_weights(build, batches):
    """A Conv1D and a Linear of the same function get the same mask."""
    from transformers.pytorch_utils import Conv1D

    conv, linear = nn.Sequential(Conv1D(12, 8)), nn.Sequential(nn.Linear(8, 12))
    with torch.no_grad():
        linear[0].weight.copy_(conv[0].weight.t())
        linear[0].bias.copy_(conv[0].bias)
    x = [correlated(10, 8), correlated(10, 8, 1)]
    for method in (Taylor(loss), SNIP(loss), Wanda(), SparseGPT(), Taylor(loss, repair=True)):
        a, b = prune_(conv, Unstructured(0.5), method, x), prune_(linear, Unstructured(0.5), method, x)
        assert torch.allclose(conv[0].weight.t(), linear[0].weight, atol=1e-5)
        assert a.summary["zeros"] == b.summary["zeros"]


class Counting(Wanda):
    """Wanda that notes how many zeros the weight has at every call."""

    def scores(self, weight, stats):
        ZEROS.append(int((weight == 0).sum()))
        return super().scores(weight, stats)


ZEROS: list[int] = []


def test_steps_cut_and_measure_again():
    ZEROS.clear()
    model = nn.Sequential(nn.Linear(16, 10))
    prune_(model, Unstructured(0.75), Counting(steps=4), [correlated(40, 16)])
    shares = [p.sparsity for p in cuts(Unstructured(0.75), 4)]
    assert [0, *[int(s * 160 + 0.5) for s in shares[:-1]]] == ZEROS
    assert int((model[0].weight == 0).sum()) == 120


@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_are_measured_before_every_cut(build, batches, steps):
    calls = []

    def counted(model, batch):
        calls.append(sum(int((p == 0).sum()) for p in model.parameters()))
        return loss(model, batch)

    model = build("plain")
    prune_(model, Unstructured(0.8), Taylor(counted, steps=steps), batches)
    assert len(calls) == steps * len(batches)
    assert len(set(calls)) == steps
    assert calls == sorted(calls)


@pytest.mark.parametrize("method", [Random(steps=3), Magnitude("column", steps=3), Wanda(steps=3)], ids=str)
def test_steps_of_n_m_are_nested(method):
    model = nn.Sequential(nn.Linear(16, 10))
    prune_(model, NM(1, 4), method, [correlated(40, 16)])
    assert bool(((model[0].weight.reshape(10, 4, 4) != 0).sum(-1) == 1).all())


def test_several_steps_beat_one_where_inputs_depend_on_what_was_cut():
    """Two layers in a block: the second one's inputs change when the first is cut."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 24))])

        def forward(self, x):
            return self.layers[0](x)

    lost = {1: 0.0, 6: 0.0}
    for seed in range(6):
        x = correlated(400, 24, seed)
        for steps in lost:
            torch.manual_seed(seed)
            model = Deep()
            with torch.no_grad():
                before = model(x)
                prune_(model, Unstructured(0.6), SparseGPT(steps=steps), [x])
                lost[steps] += float((model(x) - before).square().sum() / before.square().sum())
    assert lost[6] < lost[1]


def test_random_depends_on_seed_and_layer_only(build):
    a, b, c = build("plain"), build("plain"), build("plain")
    prune_(a, Unstructured(0.5), Random(seed=3))
    prune_(b, Unstructured(0.5), Random(seed=3), filter_fn=lambda module, name: name == "3")
    prune_(c, Unstructured(0.5), Random(seed=4))
    assert torch.equal(a[3].weight, b[3].weight)
    assert not torch.equal(a[3].weight, c[3].weight)
    assert not torch.equal(a[1].weight == 0, a[3].weight.t() == 0)


def test_global_budgets_of_methods_that_measure(build, batches):
    for method in (Wanda(), SparseGPT(), Taylor(loss)):
        model = build("bert") if "grad_sq" not in method.needs else build("plain")
        report = prune_(model, Unstructured(0.5, scope="model"), method, Calibration(batches))
        shares = {round(row["sparsity"], 3) for row in report.rows if row["status"] == "pruned"}
        assert report.summary["sparsity"] == pytest.approx(0.5, abs=1e-4)
        assert len(shares) > 1


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Magnitude("rows"), ValueError, "normalize: expected None, 'row' or 'column', got 'rows'"),
        (lambda: Wanda(steps=0), ValueError, "steps: expected >= 1, got 0"),
        (lambda: Wanda(steps=1.5), TypeError, "steps: expected an integer, got float"),
        (lambda: SparseGPT(damping=0.0), ValueError, "damping: expected > 0, got 0.0"),
        (lambda: SparseGPT(block=0), ValueError, "block: expected >= 1, got 0"),
    ],
)
def test_wrong_options_are_named(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_a_method_prints_what_was_chosen():
    assert str(Wanda()) == "Wanda()"
    assert str(SparseGPT(block=64, steps=2)) == "SparseGPT(steps=2, block=64)"
    assert str(Method()) == "Method()"
