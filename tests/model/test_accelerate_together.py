"""accelerate_: a layer that alone is a little slower than dense is taken where its fusion is faster."""

import pytest
import torch
import transformers
from torch import nn

import prunus
from prunus.accelerate import together, trial, verb
from prunus.nn.fused import FusedMLP

IDS = {"input_ids": torch.arange(24).reshape(2, 12) % 40}


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=40, intermediate_size=64
    )
    return transformers.BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def clock(monkeypatch):
    """Says what every clock shows: `alone` ms of a packed layer, `fused` ms of a fusion; dense takes 1 of
    each, and neither the fusion of query, key and value nor attention ever pays."""

    def show(alone: float, fused: float) -> None:
        def race(sites, candidates, trainable):
            words = {id(site): list(candidates.get(id(site), {})) for site in sites}
            return {key: {"dense": 1.0, **dict.fromkeys(found, alone)} for key, found in words.items()}

        def racer(fusion, members, entry):
            real = real_racer(fusion, members, entry)
            for dense, packed in zip(*real.contenders, strict=True):  # both can be called
                torch.testing.assert_close(dense(), packed(), rtol=0.1, atol=0.1)
            ms = (1.0, 9.0 if fusion.kind == "shared input" else fused)
            real.best_ms = lambda which: ms[which]
            return real

        real_racer = together._racer
        monkeypatch.setattr(verb, "race", race)
        monkeypatch.setattr(verb, "race_attention", lambda calls, min_speedup: None)
        monkeypatch.setattr(together, "_racer", racer)

    return show


def packed_layers(model: nn.Module) -> set[str]:
    return {name for name, m in model.named_modules() if isinstance(m, prunus.SparseLinear)}


def test_layers_join_where_the_fusion_is_faster(clock):
    clock(alone=1.2, fused=0.8)
    model, dense = bert(), bert()
    report = prunus.accelerate_(model, IDS, precision="int8")
    ends = ("intermediate.dense", "output.dense")
    assert packed_layers(model) == {n for n, m in dense.named_modules() if n.endswith(ends)}
    assert sum(isinstance(m, FusedMLP) for m in model.modules()) == 2
    assert {row["kind"] for row in report.summary["fused"]} == {"gelu", "residual"}
    assert all((row["ms_before"], row["ms_after"]) == (1.0, 0.8) for row in report.summary["fused"])
    with torch.no_grad():
        torch.testing.assert_close(model(**IDS)[0], dense(**IDS)[0], rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("alone", "fused"), [(1.2, 0.99), (1.2, 1.1), (1.0 / together.NEAR + 0.1, 0.1)])
def test_others_stay_dense(clock, alone, fused):
    clock(alone, fused)
    model = bert()
    report = prunus.accelerate_(model, IDS, precision="int8")
    assert packed_layers(model) == set()
    assert report.summary["fused"] == []
    assert {row["reason"] for row in report.rows} == {"measured slower"}


def test_what_cannot_be_fused_in_the_end_is_dense_again(clock, monkeypatch):
    clock(alone=1.2, fused=0.5)
    monkeypatch.setattr(trial, "fuse_faster", lambda model, sites, known, fused: [])
    model, dense = bert(), bert()
    report = prunus.accelerate_(model, IDS, precision="int8")
    assert packed_layers(model) == set()
    assert report.summary["relative_error"] == 0.0
    assert not any(row["converted"] for row in report.rows)
    with torch.no_grad():
        assert torch.equal(model(**IDS)[0], dense(**IDS)[0])


def test_an_error_while_measuring_leaves_the_model(clock, monkeypatch):
    clock(alone=1.2, fused=0.5)

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(together, "take_laps", broken)
    model = bert()
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(KeyboardInterrupt):
        prunus.accelerate_(model, IDS, precision="int8")
    assert {name: id(module) for name, module in model.named_modules()} == before
