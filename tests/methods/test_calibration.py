"""Statistics of layer inputs: right numbers, no trace left, layer by layer (trap 7)."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prunus.calibration import Calibration, Stats, gradients, untouched, walk
from prunus.families import blocks
from prunus.methods import SNIP, Magnitude, SparseGPT, Taylor, Wanda
from prunus.patterns import Unstructured
from prunus.prune import prune_
from prunus.prune.targets import find_targets

BOTH = frozenset({"sumsq", "gram"})


def layers_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    targets, _ = find_targets(model, None)
    return {target.name: list(target.modules.values()) for target in targets}


def measure(model: nn.Module, calibration: Calibration, needs=BOTH) -> dict[str, Stats]:
    with untouched(model), torch.no_grad():
        groups = walk(model, layers_of(model), calibration, needs)
        return {name: stats for group in groups for name, stats in group.measure().items()}


def inputs_by_hand(model: nn.Module, batches) -> dict[str, torch.Tensor]:
    """Inputs of every Linear as float64 rows, from hooks of our own."""
    seen: dict[str, list[torch.Tensor]] = {}
    handles = [
        module.register_forward_hook(
            lambda m, args, out, name=name: seen.setdefault(name, []).append(args[0].flatten(0, -2).double())
        )
        for name, modules in layers_of(model).items()
        for module in modules
    ]
    with torch.no_grad():
        for batch in batches:
            model(**batch) if isinstance(batch, dict) else model(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(rows) for name, rows in seen.items()}


@pytest.mark.parametrize("sequential", [True, False])
def test_statistics_are_those_of_the_inputs(model, batches, sequential):
    expected = inputs_by_hand(model, batches)
    found = measure(model, Calibration(batches, sequential))
    assert set(found) == set(expected)
    for name, x in expected.items():
        assert found[name].tokens == len(x) == 120
        assert found[name].sumsq.dtype == torch.float64
        assert torch.allclose(found[name].sumsq, x.square().sum(0), rtol=1e-5)
        assert torch.allclose(found[name].gram.double(), x.t() @ x, rtol=1e-3, atol=1e-4)


def test_sums_do_not_drown_in_bfloat16_or_float32():
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).to(torch.bfloat16)
    batches = [torch.full((5001, 2), 1.0, dtype=torch.bfloat16)] * 3 + [
        torch.full((1, 2), 2.0**12).bfloat16()
    ] * 2
    stats = measure(model, Calibration(batches))["0"]
    # Odd, and beyond the whole numbers of float32.
    assert stats.sumsq.tolist() == [15003 + 2 * 2**24] * 2
    assert stats.tokens == 15005


@pytest.mark.parametrize("sequential", [True, False])
def test_padding_is_not_a_token(build, sequential):
    for name in ("bert", "gpt2", "llama"):
        model = build(name)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, 60, (3, 8), generator=generator)
        mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3, [1] * 2 + [0] * 6])
        padded = [{"input_ids": ids, "attention_mask": mask}]
        alone = [{"input_ids": ids[i : i + 1, : int(mask[i].sum())]} for i in range(3)]
        got = measure(model, Calibration(padded, sequential))
        expected = measure(model, Calibration(alone, sequential))
        for layer in expected:
            assert got[layer].tokens == expected[layer].tokens == 15
            assert torch.allclose(got[layer].gram, expected[layer].gram, rtol=1e-3, atol=1e-4)


def test_padding_is_found_in_tuples_and_torch_masks_and_by_the_user():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x, src_key_padding_mask=None):
            return self.fc(x.flatten(0, 1))

    x, padding = torch.ones(2, 3, 4), torch.tensor([[False, False, True], [False, True, True]])
    assert measure(Padded(), Calibration([(x, padding)]))["fc"].tokens == 3
    assert measure(Padded(), Calibration([{"x": x, "src_key_padding_mask": padding}]))["fc"].tokens == 3
    assert measure(Padded(), Calibration([x], real=lambda batch: ~padding))["fc"].tokens == 3
    assert measure(Padded(), Calibration(x))["fc"].tokens == 6


class Checkpointed(nn.Module):
    """Two layers, the second under gradient checkpointing: its forward runs again in backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.reentrant: bool | None = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).tanh()
        return (
            self.second(x)
            if self.reentrant is None
            else checkpoint(self.second, x, use_reentrant=self.reentrant)
        )


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_counts_once(reentrant):
    model, x = Checkpointed(reentrant), torch.randn(5, 4)
    stats = measure(model, Calibration([x]))
    assert stats["second"].tokens == 5
    weights = {"first": model.first.weight, "second": model.second.weight}
    needs = frozenset({"grad_sum", "grad_sq"})

    def loss(m, batch):
        return m(batch).square().sum()

    got = gradients(model, weights, Calibration([x, 2 * x]), loss, needs)
    model.reentrant = None
    expected = gradients(model, weights, Calibration([x, 2 * x]), loss, needs)
    for name in weights:
        assert torch.allclose(got[name].grad_sum, expected[name].grad_sum)
        assert torch.allclose(got[name].grad_sq, expected[name].grad_sq)
        assert expected[name].grad_sum.abs().sum() > 0


def test_gradients_add_up_in_float32_and_leave_no_trace(build):
    model = build("plain").to(torch.bfloat16)
    model[1].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    batches = [torch.arange(6)[None]] * 3
    weights = {"1": model[1].weight, "3": model[3].weight}
    needs = frozenset({"grad_sum", "grad_sq"})

    def loss(m, batch):
        return m(batch).float().square().mean()

    one = gradients(model, weights, Calibration(batches[:1]), loss, needs)
    three = gradients(model, weights, Calibration(batches), loss, needs)
    assert three["1"].grad_sum.dtype == torch.float32
    assert torch.equal(three["1"].grad_sum, 3 * one["1"].grad_sum)
    assert torch.allclose(one["1"].grad_sq, one["1"].grad_sum.square())
    assert not model[1].weight.requires_grad
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert model[5].weight.grad is None


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind(transformer, batches, fails):
    transformer.train()
    transformer.get_submodule(next(iter(blocks(transformer)))).eval()
    modes = [module.training for module in transformer.modules()]
    cache = transformer.config.use_cache if hasattr(transformer.config, "use_cache") else None
    calibration = Calibration([*batches, "broken"] if fails else batches, forward=lambda m, batch: m(batch))
    if fails:
        with pytest.raises(Exception, match=r"str|view|size"):
            prune_(transformer, Unstructured(0.5), Wanda(), calibration)
    else:
        prune_(transformer, Unstructured(0.5), Wanda(), calibration)
    assert [module.training for module in transformer.modules()] == modes
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in transformer.modules())
    if cache is not None:
        assert transformer.config.use_cache == cache


def test_dropout_is_off_while_measuring(build, batches):
    model = build("bert")
    expected = measure(model, Calibration(batches))
    got = measure(model.train(), Calibration(batches))
    assert all(torch.equal(got[name].sumsq, expected[name].sumsq) for name in expected)


def test_blocks_are_calibrated_on_the_pruned_ones_before_them(transformer, batches):
    """What the second block is measured on is what the pruned first one puts out; dense otherwise."""
    layer = list(layers_of(transformer))[-1]
    dense = inputs_by_hand(transformer, batches)[layer].square().sum(0)
    seen = {}

    class Spy(Wanda):
        def scores(self, weight, stats):
            seen[stats.name] = stats.sumsq
            return super().scores(weight, stats)

    once = copy.deepcopy(transformer)
    prune_(transformer, Unstructured(0.7), Spy(), Calibration(batches))
    sequential = seen[layer]
    last_block = list(blocks(transformer))[-1]
    fresh = copy.deepcopy(once)
    first = {n: Unstructured(0.7) for n in layers_of(fresh) if not n.startswith(last_block)}
    prune_(fresh, first, Wanda(), Calibration(batches))
    halfway = inputs_by_hand(fresh, batches)[layer].square().sum(0)
    assert torch.allclose(sequential, halfway, rtol=1e-4)
    prune_(once, Unstructured(0.7), Spy(), Calibration(batches, sequential=False))
    assert torch.allclose(seen[layer], dense, rtol=1e-4)
    assert not torch.allclose(sequential, dense, rtol=1e-2)


def test_one_block_in_memory_at_a_time(transformer, batches):
    with untouched(transformer), torch.no_grad():
        groups = list(walk(transformer, layers_of(transformer), Calibration(batches), BOTH))
    names = list(blocks(transformer))
    assert [{n.rsplit(".", n.count(".") - names[0].count("."))[0] for n in g.names} for g in groups] == [
        {name} for name in names
    ]


class Odd(nn.Module):
    """Does something between its blocks, so feeding one block's output to the next would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).flip(-1)
        return x


def test_work_between_blocks_is_not_lost():
    model, x = Odd(), [torch.randn(20, 6)]
    expected = inputs_by_hand(model, x)
    found = measure(model, Calibration(x))
    for name, rows in expected.items():
        assert torch.allclose(found[name].sumsq, rows.square().sum(0), rtol=1e-5)


def test_a_block_that_runs_twice_counts_twice():
    """As in ALBERT, where one block is the whole depth."""
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(4, 4)])
    model.forward = lambda x: model.layers[0](model.layers[0](x).tanh())
    x = torch.randn(7, 4)
    rows = torch.cat([x, model.layers[0](x).tanh()]).double()
    found = measure(model, Calibration([x]))["layers.0"]
    assert found.tokens == 14
    assert torch.allclose(found.sumsq, rows.square().sum(0), rtol=1e-5)


def test_tied_layers_add_up(build):
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    x = torch.randn(9, 4)
    rows = torch.cat([x, model[1](model[0](x))]).double()
    found = measure(model, Calibration([x]))
    assert list(found) == ["0"]
    assert torch.allclose(found["0"].sumsq, rows.square().sum(0), rtol=1e-5)


def test_layers_outside_the_blocks(build, batches):
    model = build("bert")
    report = prune_(model, Unstructured(0.5), SparseGPT(), batches, filter_fn=lambda module, name: True)
    assert "pooler.dense" in report.pruned
    assert report.summary["sparsity"] == pytest.approx(0.5)


def test_batches_of_every_kind(build):
    model = build("bert")
    ids = torch.arange(1, 13).reshape(2, 6)
    mask = torch.ones_like(ids)
    from transformers import BatchEncoding

    expected = measure(model, Calibration([ids]))
    for batches in (
        [{"input_ids": ids}],
        [BatchEncoding({"input_ids": ids, "attention_mask": mask})],
        [(ids, mask)],
        ([ids, mask] for _ in range(1)),
        ids,
        {"input_ids": ids},
    ):
        found = measure(model, Calibration(batches))
        assert all(torch.equal(found[n].sumsq, expected[n].sumsq) for n in expected)


@pytest.mark.parametrize(
    ("batches", "error", "sentence"),
    [
        ([], ValueError, "calibration: expected at least one batch, got none"),
        (3, TypeError, "calibration: expected an iterable of batches, got int"),
        ("text", TypeError, "calibration: expected an iterable of batches, got str"),
        (["text"], TypeError, "calibration: expected batches of tensors, mappings or tuples, got str"),
        (None, ValueError, r"calibration: expected batches of sample inputs for Wanda\(\), got None"),
    ],
)
def test_wrong_batches_are_named(build, batches, error, sentence):
    with pytest.raises(error, match=sentence):
        prune_(build("plain"), Unstructured(0.5), Wanda(), batches)


def test_empty_and_infinite_inputs_are_named():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="expected every layer to see a token, got none at 0"):
        prune_(model, Unstructured(0.5), Wanda(), [torch.zeros(0, 4)])
    with pytest.raises(ValueError, match="calibration: expected finite inputs, got inf or nan at 0"):
        prune_(model, Unstructured(0.5), Wanda(), [torch.full((1, 4), torch.inf)])


def test_losses_that_do_not_fit_are_named(build, batches):
    for loss, error, sentence in (
        (
            lambda m, b: m(b),
            TypeError,
            r"loss: expected a scalar tensor with a gradient, got shape \(3, 10, 8\)",
        ),
        (lambda m, b: 1.0, TypeError, "loss: expected a scalar tensor with a gradient, got float"),
        (lambda m, b: m(b).sum() * torch.inf, ValueError, "loss: expected a finite value"),
        (
            lambda m, b: m[:2](b).sum(),
            ValueError,
            "loss: expected a gradient at every layer, got none at 3, 5",
        ),
    ):
        with pytest.raises(error, match=sentence):
            prune_(build("plain"), Unstructured(0.5), SNIP(loss), batches)
    with pytest.raises(TypeError, match="loss: expected a function"):
        Taylor(loss=3)


def test_calibration_of_a_method_that_needs_none_is_not_read(build):
    class Untouchable:
        def __iter__(self):
            yield torch.zeros(1, 1)

    report = prune_(build("plain"), Unstructured(0.5), Magnitude(), Untouchable())
    assert report.summary["sparsity"] == 0.5


class Block(nn.Module):
    """Three layers of one input, and one more; counts how often it runs to its end."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(600, 600) for _ in range(3))
        self.o, self.in_place, self.ends = nn.Linear(600, 600), in_place, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0
        q = self.q(x)
        if self.in_place:
            x.mul_(2.0)
        out = self.o(q + self.k(x) + self.v(x))
        self.ends += 1
        return out


def stack_of(blocks: list[nn.Module]) -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList(blocks)
    model.forward = lambda x: nn.Sequential(*model.layers)(x)
    return model


@pytest.mark.parametrize("in_place", [False, True])
def test_layers_of_one_input_share_the_work_unless_it_changed(in_place):
    torch.manual_seed(0)
    model, batches = stack_of([Block(in_place), Block(in_place)]), [torch.randn(9, 600) for _ in range(3)]
    expected = inputs_by_hand(model, batches)
    for name, stats in measure(model, Calibration(batches)).items():
        x = expected[name].double()
        assert torch.allclose(stats.sumsq, x.square().sum(0), rtol=1e-4)
        assert torch.allclose(stats.gram.double(), x.t() @ x, rtol=1e-3, atol=1e-3)
        assert torch.equal(stats.gram, stats.gram.t())


def test_a_block_is_left_where_its_last_layer_was_seen():
    torch.manual_seed(0)
    model, batches = stack_of([Block(), Block()]), [torch.randn(5, 600) for _ in range(4)]
    measure(model, Calibration(batches))
    # Recording: one batch; measuring: the first; then the inputs of the next block, where there is one.
    assert [block.ends for block in model.layers] == [1 + 1 + 4, 1 + 1]


def test_a_layer_that_not_every_batch_calls_is_seen_whenever_it_is():
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.rare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.always(x)
            return self.rare(x) if len(x) > 2 else x

    batches = [torch.randn(n, 4) for n in (2, 3, 2, 5)]
    found = measure(stack_of([Sometimes()]), Calibration(batches))
    assert (found["layers.0.always"].tokens, found["layers.0.rare"].tokens) == (12, 8)


def test_autocast_of_the_model_does_not_round_the_products():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 4)), torch.randn(50, 8)

    def forward(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch)

    layers = {"0": [model[0]]}
    calls = Calibration([x], forward=forward)
    for group in walk(model, layers, calls, frozenset({"gram"})):
        assert torch.allclose(group.measure()["0"].gram, x.t() @ x, rtol=1e-5, atol=1e-5)
