"""accelerate_ with bfloat16 and int8: what races, what is reported, and what survives save and load."""

import copy

import pytest
import torch
from torch import nn

import prunus
from prunus import SparseLinear
from prunus.accelerate import accelerate_
from prunus.accelerate.candidates import CANDIDATES, PRECISIONS

X = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))


def model(sparsity: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)).eval()
    if sparsity:
        prunus.prune_(net, prunus.Block((4, 4), sparsity))
    return net.to(dtype)


def only(monkeypatch: pytest.MonkeyPatch, precision: str, word: str) -> None:
    """The race of a precision between dense and one candidate."""
    monkeypatch.setitem(PRECISIONS, precision, (word,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("word", list(CANDIDATES))
def test_every_candidate_answers_within_its_error(
    monkeypatch: pytest.MonkeyPatch, word: str, dtype: torch.dtype
) -> None:
    if word == "sparse bfloat16" and dtype == torch.bfloat16:
        pytest.skip("as sparse stores it")
    only(monkeypatch, "int8", word)
    net = model(0.5, dtype)
    x = X.to(dtype)
    with torch.no_grad():
        before = net(x)
        report = accelerate_(net, x, "int8", min_speedup=0.0)
        after = net(x)
    assert [row["runs"] for row in report.rows] == [word, word]
    assert all(isinstance(net[i], SparseLinear) for i in (0, 2))
    stored = {net[i].packed_weight.format == "dot" for i in (0, 2)}
    assert stored == {CANDIDATES[word].format == "dot"}
    assert after.dtype == dtype
    error = float((after.float() - before.float()).norm() / before.float().norm())
    assert error < (0.03 if CANDIDATES[word].error else 0.01)
    assert abs(report.summary["relative_error"] - error) < 1e-6


def test_an_unpruned_model_races_in_low_precision_only() -> None:
    report = accelerate_(model(), X, "int8", min_speedup=0.0)
    for row in report.rows:
        assert row["sparse_ms"] is None
        assert row["bfloat16_ms"] > 0
        assert row["int8_ms"] > 0
        assert row["runs"] in ("bfloat16", "int8")
        assert 0 < row["error"] < 0.05
    assert report.summary["precision"] == "int8"
    assert "int8 ms" in str(report)


def test_float32_stays_float32() -> None:
    report = accelerate_(model(0.5), X, min_speedup=0.0)
    assert {row["runs"] for row in report.rows} == {"sparse"}
    assert {row["int8_ms"] for row in report.rows} == {None}
    assert "int8" not in str(report)
    assert accelerate_(model(), X, min_speedup=0.0).summary["converted"] == 0


@pytest.mark.parametrize("word", ["bfloat16", "int8"])
def test_saved_and_loaded_it_multiplies_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, word: str
) -> None:
    only(monkeypatch, "int8", word)
    net = model(0.5)
    fresh = copy.deepcopy(net)
    accelerate_(net, X, "int8", min_speedup=0.0)
    prunus.save(net, f"{tmp_path}/m.safetensors")
    loaded = prunus.load(fresh, f"{tmp_path}/m.safetensors")
    assert loaded[0].packed_weight.format == "dot"
    assert loaded[0].packed_weight.dtype == word
    with torch.no_grad():
        torch.testing.assert_close(loaded(X), net(X), rtol=1e-5, atol=1e-5)
    dense = loaded[0].to_linear()
    assert dense.weight.dtype == torch.float32


def test_a_layer_that_int8_cannot_hold_keeps_another_precision() -> None:
    net = model()
    with torch.no_grad():
        net[0].weight[:, 0] = 1e4  # every step of the row is larger than the other weights
    x = X.clone()
    x[:, 0] = 0
    report = accelerate_(net, x, "int8", min_speedup=0.0)
    assert report.rows[0]["runs"] != "int8"


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 32)
        self.body = nn.Linear(32, 32)
        self.head = nn.Linear(32, 64, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(self.embed(ids))))


def test_a_tied_head_gets_a_copy_of_its_own(tmp_path: object) -> None:
    torch.manual_seed(0)
    net, ids = Tied().eval(), torch.arange(48).view(3, 16)
    fresh = copy.deepcopy(net)
    assert accelerate_(copy.deepcopy(net), ids, min_speedup=0.0).summary["converted"] == 0
    embedding = net.embed.weight.detach().clone()
    report = accelerate_(net, ids, "int8", min_speedup=0.0)
    assert {row["name"]: row["converted"] for row in report.rows} == {"body": True, "head": True}
    assert torch.equal(net.embed.weight, embedding)
    prunus.save(net, f"{tmp_path}/m.safetensors")
    loaded = prunus.load(fresh, f"{tmp_path}/m.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids), net(ids), rtol=1e-5, atol=1e-5)
    assert torch.equal(loaded.embed.weight, embedding)


def test_gradients_reach_x_through_a_dot_layer() -> None:
    layer = SparseLinear.from_linear(nn.Linear(64, 96), dtype="int8", format="dot")
    x = X.clone().requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.to_linear().weight.detach().sum(0).expand(32, 64))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_dot_compiles_and_passes_opcheck(dtype: str) -> None:
    layer = SparseLinear.from_linear(nn.Linear(64, 96), dtype=dtype, format="dot").eval()
    for x in (X, X[:1], X.bfloat16()):
        arguments = (x, layer.packed, layer.bias.detach(), 96, 1)
        torch.library.opcheck(torch.ops.prunus.linear.default, arguments)
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(X), layer(X))


def test_says_what_precision_may_be() -> None:
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, int8, got 'int4'"):
        accelerate_(model(), X, "int4")


def test_zeros_stored_come_back_as_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "int8", "int8, zeros stored")
    net = model(0.5)
    zeros = net[0].weight == 0
    accelerate_(net, X, "int8", min_speedup=0.0)
    shorter = prunus.pack(net[0].packed_weight.to_dense(), dtype="int8", format="dot")
    assert net[0].packed_weight.nbytes > shorter.nbytes
    assert bool((net[0].to_linear().weight[zeros] == 0).all())  # and small weights round to zero


@pytest.mark.parametrize("sparsity", [0.0, 0.95])
def test_zeros_are_stored_only_where_that_may_win(monkeypatch: pytest.MonkeyPatch, sparsity: float) -> None:
    only(monkeypatch, "int8", "int8, zeros stored")
    report = accelerate_(model(sparsity), X, "int8", min_speedup=0.0)
    assert not any(row["converted"] for row in report.rows)
