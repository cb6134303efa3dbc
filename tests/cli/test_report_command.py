"""prunus report: figures that another way of computing them confirms."""

import json
import math
from pathlib import Path

import pytest
import torch

from prunus.checkpoint.pretrained import load_pretrained
from prunus.cli import main
from prunus.cli.inputs import SampleSize, make_inputs
from prunus.report import frontier

pytestmark = pytest.mark.usefixtures("quick")
SMALL = ["--samples", "10", "--batch", "4", "--length", "16"]


@pytest.fixture(scope="module")
def pruned_dirs(model_dirs, tmp_path_factory):
    """Kind -> the directory that prunus prune makes of it."""
    made = {}
    for kind in ("bert", "llama"):
        made[kind] = tmp_path_factory.mktemp("pruned") / kind
        arguments = ["prune", str(model_dirs[kind]), "--out", str(made[kind]), "--sparsity", "0.6"]
        assert main([*arguments, "--no-accelerate", *SMALL]) == 0
    return made


def report(capsys, *arguments, size=SMALL):
    assert main(["report", *map(str, arguments), *size, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["summary"]


def lines(path):
    return [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]


def test_perplexity(model_dirs, pruned_dirs, text_file, capsys):
    before, after = model_dirs["llama"], pruned_dirs["llama"]
    found = report(capsys, before, after, "--text", text_file)
    for key, folder in (("perplexity_before", before), ("perplexity_after", after)):
        model = load_pretrained(folder)
        inputs = make_inputs(model, str(before), lines(text_file), SampleSize(10, 4, 16), "--text")
        with torch.no_grad():
            losses = [(model(**b, labels=b["input_ids"]).loss, len(b["input_ids"])) for b in inputs.batches]
        mean = sum(float(loss) * n for loss, n in losses) / sum(n for _, n in losses)
        assert found[key] == pytest.approx(math.exp(mean), rel=1e-4)
    assert found["perplexity_before"] != found["perplexity_after"]
    assert 0 < found["same_next_token"] < 1
    assert found["tokens"] == 10 * 15
    assert found["disk_after"] < found["disk_before"]
    assert found["ms_before"] > 0 < found["ms_after"]


def test_embeddings_without_padding(model_dirs, pruned_dirs, text_file, capsys):
    """The cosine of an encoder is that of its texts embedded one by one."""
    folders = model_dirs["bert"], pruned_dirs["bert"]
    size = ["--samples", "60", "--batch", "7", "--length", "16"]
    found = report(capsys, *folders, "--text", text_file, size=size)
    models = [load_pretrained(folder) for folder in folders]
    cosines = []
    for text in lines(text_file):
        (batch,) = make_inputs(models[0], str(folders[0]), [text], SampleSize(1, 1, 16), "--text").batches
        with torch.no_grad():
            a, b = (model(**batch).last_hidden_state.mean(1) for model in models)
        cosines.append(float(torch.cosine_similarity(a, b)))
    assert len(cosines) == 60
    assert found["embedding_cosine"] == pytest.approx(sum(cosines) / 60, abs=1e-5)
    assert found["embedding_cosine_lowest"] == pytest.approx(min(cosines), abs=1e-5)
    assert found["embedding_cosine"] < 0.99


def test_a_model_beside_itself(model_dirs, capsys):
    assert main(["report", str(model_dirs["llama"]), str(model_dirs["llama"]), *SMALL]) == 0
    out = capsys.readouterr().out
    assert "time, ms" in out
    assert "weights on disk, MB" in out
    assert "cosine 1.0000, relative error 0" in out
    assert "give --text" in out
    assert "perplexity" not in out  # that of random tokens means nothing


def test_every_engine(model_dirs, pruned_dirs, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(frontier, "SECONDS", 0.0)
    picture = tmp_path / "frontier.svg"
    folders = [str(model_dirs["llama"]), str(pruned_dirs["llama"])]
    assert main(["report", *folders, *SMALL, "--engines", "--picture", str(picture), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["engines"]["rows"]
    assert {row["engine"] for row in rows} == {*frontier.choose_engines(True)} - {"prunus"}
    assert [row["note"] for row in rows] == [None] * len(rows)
    assert all(row["ms"] > 0 for row in rows)
    assert found["engines"]["summary"]["winner"]["engine"] in {row["engine"] for row in rows}
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["BERT", "--picture", "x.svg"], "--picture: expected --engines beside it"),
        (["BERT", "--compiled"], "--compiled: expected --engines beside it"),
        (["nowhere"], "model directory: expected a directory at 'nowhere', got nothing"),
        (["GPT2"], "after: expected"),
        (["BERT", "--text", "nowhere.txt"], "--text: expected a text file at 'nowhere.txt', got none"),
        (["BERT", "--batch", "0"], "--batch: expected at least 1, got 0"),
        (["BERT", "--threads", "0"], "--threads: expected at least 1, got 0"),
    ],
)
def test_refusals(arguments, sentence, model_dirs, capsys):
    known = {kind.upper(): str(path) for kind, path in model_dirs.items()}
    given = [known.get(word, word) for word in arguments]
    assert main(["report", str(model_dirs["bert"]), given[0], *SMALL, *given[1:]]) == 1
    error = capsys.readouterr().err
    assert error.startswith("prunus: ")
    assert sentence in error
