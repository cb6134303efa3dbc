"""compare(..., engines=True): one table of all engines, and who wins."""

import copy
import json

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import prunus
from prunus.accelerate import race
from prunus.engines import packages
from prunus.report import comparison, frontier
from prunus.report.frontier import EnginesReport, choose_engines

TOKENS = {"input_ids": torch.arange(30).reshape(2, 15), "attention_mask": torch.ones(2, 15, dtype=torch.long)}


@pytest.fixture(autouse=True)
def short(monkeypatch, set_threads):
    for module in (comparison, frontier, race):
        monkeypatch.setattr(module, "SECONDS", 0.0)
    set_threads(1)


def bert() -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertModel(
        BertConfig(vocab_size=40, initializer_range=0.2, **shape), add_pooling_layer=False
    ).eval()


def test_every_installed_engine_twice():
    before = bert()
    after = copy.deepcopy(before)
    prunus.shrink_(after, prunus.Neurons(0.5), TOKENS)
    report = prunus.compare(before, after, [TOKENS, {k: v[:1, :7] for k, v in TOKENS.items()}], engines=True)
    rows = {(row["engine"], row["model"]): row for row in report.engines.rows}
    expected = [name for name in choose_engines(True) if name != "prunus"]  # no packed layers here
    assert len(expected) >= 3
    assert set(rows) == {(name, word) for name in expected for word in ("before", "after")}
    for (engine, word), row in rows.items():
        assert row["note"] is None
        assert row["ms"] > 0
        least = 0.98 if "int8" in engine or "bfloat16" in engine else 0.9999
        same = rows["torch", word]["cosine"]
        assert row["cosine"] >= (least if word == "before" else same - 0.02)
        assert 0 < row["megabytes"] < 1
    # In float32 every engine agrees on what pruning costs.
    assert rows["torch", "after"]["cosine"] == pytest.approx(report.summary["cosine"], abs=1e-4)
    assert rows["torch", "before"]["speed"] == 1.0
    assert rows["torch", "after"]["megabytes"] < rows["torch", "before"]["megabytes"]
    assert "With the quality of the model before" in str(report)
    whole = json.loads(report.to_json())
    assert len(whole["engines"]["rows"]) == len(rows)


def test_a_packed_model_runs_as_it_is():
    before = bert()
    after = copy.deepcopy(before)
    prunus.prune_(after, prunus.Unstructured(0.8))
    prunus.accelerate_(after, TOKENS, min_speedup=0.0)
    report = prunus.compare(before, after, TOKENS, engines=["prunus", "prunus int8"], threads=2).engines
    assert [(row["engine"], row["model"]) for row in report.rows] == [
        ("torch", "before"),
        ("torch", "after"),
        ("prunus", "after"),
        ("prunus int8", "before"),
    ]
    assert report.rows[2]["cosine"] == pytest.approx(report.rows[1]["cosine"], abs=1e-5)
    assert report.rows[2]["megabytes"] < report.rows[1]["megabytes"]
    assert report.summary["threads"] == 2
    assert torch.get_num_threads() == 1


def row(engine, model, ms, cosine):
    return {"engine": engine, "model": model, "ms": ms, "cosine": cosine, "note": None}


def test_the_winner_need_not_be_ours():
    rows = [
        row("torch", "before", 10.0, 1.0),
        row("torch", "after", 6.0, 0.9),
        row("OpenVINO", "before", 2.0, 0.99995),
        row("OpenVINO", "after", 1.0, 0.9),
        row("prunus", "after", 3.0, 0.9),
        row("ONNX Runtime", "before", None, None),
    ]
    report = frontier._report(rows, 2, 1)
    assert report.summary["winner"] == {
        "engine": "OpenVINO",
        "model": "before",
        "ms": 2.0,
        "speed": 5.0,
        "cosine": 0.99995,
    }
    assert report.summary["winner_after"]["engine"] == "OpenVINO"
    assert report.summary["winner_after"]["ms"] == 1.0
    # torch is as good as OpenVINO to the digits that count, and slower.
    assert [one.get("frontier") for one in report.rows] == [False, False, True, True, False, None]
    assert report.summary_line() == (
        "With the quality of the model before, OpenVINO with the model before (2.00 ms) is the fastest; with "
        "that of the model after (cosine 0.9000), OpenVINO with the model after (1.00 ms). 2 threads."
    )


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row("torch", "before", 10.0, 1.0), row("torch", "after", 6.0, 0.9), row("x", "after", 4.0, 0.8)]
    frontier._report(rows, 1, 1).plot(tmp_path / "frontier.svg")
    text = (tmp_path / "frontier.svg").read_text()
    assert text.startswith("<?xml")
    assert isinstance(frontier._report(rows, 1, 1), EnginesReport)


def test_an_engine_that_cannot_take_the_model_is_a_line():
    pytest.importorskip("onnxruntime")

    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.lstsq(x, x).solution + x

    report = prunus.compare(Odd(), Odd(), torch.eye(3), engines=["ONNX Runtime"]).engines
    assert [row["ms"] is None for row in report.rows] == [False, False, True, True]
    assert "lstsq" in report.rows[2]["note"]


def test_what_can_be_asked_for(monkeypatch):
    assert choose_engines(True) == [
        name
        for name, engine in frontier.ENGINES.items()
        if not engine.slow and packages.installed(*engine.packages)
    ]
    with pytest.raises(ValueError, match=r"engines: expected some of torch, .* got 'tvm'"):
        prunus.compare(bert(), bert(), TOKENS, engines=["tvm"])
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        prunus.compare(bert(), bert(), TOKENS, threads=0)
    monkeypatch.setattr(frontier, "installed", lambda *names: not names)
    assert choose_engines(True) == ["torch", "torch bfloat16", "prunus", "prunus int8"]
    with pytest.raises(ImportError, match="engines: OpenVINO needs openvino, not installed"):
        choose_engines(["OpenVINO"])
