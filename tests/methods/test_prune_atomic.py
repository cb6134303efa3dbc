"""A model is never half changed, and is an ordinary object afterwards (trap 5)."""

import copy
import pickle
import tracemalloc

import pytest
import torch
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from prunus.methods import Magnitude, Method, Random, SparseGPT, Wanda
from prunus.patterns import Unstructured
from prunus.prune import prune_


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = model.state_dict()
    return list(now) == list(before) and all(torch.equal(now[name], before[name]) for name in before)


class FailsAt(Method):
    """Magnitude that breaks at the given call."""

    def __init__(self, call, needs):
        object.__setattr__(self, "steps", 1)
        object.__setattr__(self, "repair", False)
        object.__setattr__(self, "left", [call])
        object.__setattr__(self, "needs", frozenset(needs))

    def prune(self, weight, stats, pattern):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise RuntimeError("broke")
        return Magnitude().prune(weight, stats, pattern)


@pytest.mark.parametrize("needs", [(), ("sumsq",)])
def test_an_error_in_the_middle_leaves_the_model_untouched(model, batches, needs):
    before, training = state(model.train()), model.training
    with pytest.raises(RuntimeError, match="broke"):
        prune_(model, Unstructured(0.5), FailsAt(2, needs), batches)
    assert same(model, before)
    assert model.training is training
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_nan_weights_are_named_and_nothing_changes(build):
    model = build("bert")
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
    before = {name: t.nan_to_num(7.0) for name, t in state(model).items()}
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense: scores"):
        prune_(model, Unstructured(0.5))
    assert all(torch.equal(t.nan_to_num(7.0), before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("method", [Wanda(steps=2), SparseGPT(), Wanda(repair=True)], ids=str)
def test_an_unseen_layer_is_named_and_nothing_changes(build, batches, method):
    model = build("plain")
    model.unused = nn.Linear(4, 4)
    model.forward = lambda x: nn.Sequential(*list(model.children())[:-1])(x)
    before = state(model)
    with pytest.raises(
        ValueError, match="calibration: expected every layer to see a token, got none at unused"
    ):
        prune_(model, Unstructured(0.5), method, batches)
    assert same(model, before)


def test_a_pruned_model_is_an_ordinary_object(transformer, batches):
    names = list(transformer.state_dict())
    prune_(transformer, Unstructured(0.5), SparseGPT(), batches)
    assert list(transformer.state_dict()) == names
    assert all(type(p) is nn.Parameter and p.requires_grad for p in transformer.parameters())
    again = pickle.loads(pickle.dumps(copy.deepcopy(transformer)))
    assert same(again, state(transformer))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in transformer.modules())


def masked(model: nn.Sequential) -> nn.Sequential:
    """Layer 1 with a mask of torch.nn.utils.prune, layer 3 with one of torch.ao.pruning."""
    torch_prune.l1_unstructured(model[1], "weight", 0.25)
    sparsifier = WeightNormSparsifier(sparsity_level=0.25)
    sparsifier.prepare(model, [{"tensor_fqn": "3.weight"}])
    sparsifier.step()
    return model


def test_masks_of_torch_are_folded(build):
    model = masked(build("plain"))
    was = [(model[i].weight == 0).clone() for i in (1, 3)]
    output = model(torch.arange(5)[None])
    other, inputs = copy.deepcopy(model[3]), torch.ones(1, 32)
    theirs = other(inputs)
    prune_(model, Unstructured(0.0))
    assert torch.equal(other(inputs), theirs)  # torch's own folding breaks a deep copy
    assert torch.equal(model(torch.arange(5)[None]), output)
    report = prune_(masked(build("plain")), Unstructured(0.5))
    assert [row["note"] for row in report.rows[:2]] == [
        "folded torch.nn.utils.prune mask",
        "folded parametrization FakeSparsity",
    ]
    assert report.rows[0]["was"] == 0.25
    model = masked(build("plain"))
    names = list(build("plain").state_dict())
    prune_(model, Unstructured(0.5))
    assert sorted(model.state_dict()) == sorted(names)
    assert type(model[3]) is nn.Linear
    assert not model[1]._forward_pre_hooks
    assert all(bool((model[i].weight[old] == 0).all()) for i, old in zip((1, 3), was, strict=True))
    assert report.summary["sparsity"] == 0.5


def test_folding_is_undone_on_error(build):
    model = masked(build("plain"))
    before, tables = state(model), {n: list(m._parameters) for n, m in model.named_modules()}
    kinds = [type(m).__name__ for m in model.modules()]
    with pytest.raises(RuntimeError, match="broke"):
        prune_(model, Unstructured(0.5), FailsAt(2, ()))
    assert same(model, before)
    assert {n: list(m._parameters) for n, m in model.named_modules()} == tables
    assert [type(m).__name__ for m in model.modules()] == kinds
    assert parametrize.is_parametrized(model[3], "weight")
    assert torch_prune.is_pruned(model[1])
    output = model(torch.arange(5)[None])
    with torch.no_grad():  # the masks are alive, not frozen into the weight
        model[3].parametrizations.weight.original *= 2.0
        model[1].weight_orig *= 2.0
    assert not torch.equal(model(torch.arange(5)[None]), output)
    assert int((model[1].weight == 0).sum()) == 128


def test_masks_wait_as_bits():
    """Magnitude needs no copy of the weights: 8 layers of 4 MiB leave 8/32 of one behind as masks."""
    model = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(8)])
    held = []

    class Watching(Method):
        def prune(self, weight, stats, pattern):
            held.append(tracemalloc.get_traced_memory()[0])
            return torch.ones_like(weight, dtype=torch.bool), None

    tracemalloc.start()
    prune_(model, Unstructured(0.5), Watching())
    tracemalloc.stop()
    assert held[-1] - held[0] < 8 * 1024 * 1024 // 8 + 200_000
    with_copy = Random(steps=2)
    assert prune_(model, Unstructured(0.5), with_copy).summary["sparsity"] == 0.5


def test_weights_with_any_strides(build):
    model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4))
    model[0].weight = nn.Parameter(torch.randn(12, 8).t())
    model[1].weight = nn.Parameter(torch.randn(8, 16)[::2, ::2][:4])
    expected = [m.weight.detach().abs().clone() for m in model]
    prune_(model, Unstructured(0.5))
    for module, old in zip(model, expected, strict=True):
        kept = module.weight != 0
        assert int(kept.sum()) == old.numel() // 2
        assert old[kept].min() >= old[~kept].max()


class Product(nn.Module):
    """A weight of low rank: two originals."""

    def forward(self, a, b):
        return a @ b

    def right_inverse(self, weight):
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        return u * s, v


COMPUTED = {
    "WeightNorm": lambda layer: torch.nn.utils.weight_norm(layer),
    "SpectralNorm": lambda layer: torch.nn.utils.spectral_norm(layer),
    "parametrization WeightNorm": lambda layer: torch.nn.utils.parametrizations.weight_norm(layer),
    "parametrization SpectralNorm": lambda layer: torch.nn.utils.parametrizations.spectral_norm(layer),
    "parametrization Product": lambda layer: parametrize.register_parametrization(layer, "weight", Product()),
    "frozen parametrization Product": lambda layer: parametrize.register_parametrization(
        layer, "weight", Product()
    ).requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_weights_are_folded(build, kind):
    model, ids = build("plain"), torch.arange(5)[None]
    COMPUTED[kind](model[3])
    output = model(ids).detach()
    report = prune_(model, Unstructured(0.0))
    assert report.rows[1]["note"] == f"folded {kind.removeprefix('frozen ')}"
    assert sorted(model.state_dict()) == sorted(build("plain").state_dict())
    assert type(model[3]) is nn.Linear
    assert isinstance(model[3].weight, nn.Parameter)
    torch.testing.assert_close(model(ids), output)
    assert prune_(model, Unstructured(0.5)).summary["sparsity"] == 0.5
    assert int((model[3].weight == 0).sum()) == model[3].weight.numel() // 2


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_folding_a_computed_weight_is_undone_on_error(build, kind):
    model, ids = build("plain"), torch.arange(5)[None]
    COMPUTED[kind](model[3])
    output, before = model(ids).detach(), state(model)
    tables = [list(m.__dict__) + list(m._parameters) + list(m._buffers) for m in model.modules()]
    with pytest.raises(RuntimeError, match="broke"):
        prune_(model, Unstructured(0.5), FailsAt(2, ()))
    assert same(model, before)
    assert [list(m.__dict__) + list(m._parameters) + list(m._buffers) for m in model.modules()] == tables
    torch.testing.assert_close(model(ids), output)
    copied = copy.deepcopy(build("plain"))
    COMPUTED[kind](copied[3])
    copied.load_state_dict(model.state_dict())
    with torch.no_grad():  # it is computed again
        for parameter in model[3].parameters():
            parameter += 0.5
    assert not torch.equal(model(ids), output)
