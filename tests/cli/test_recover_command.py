"""prunus recover, and prunus prune --recover, on tiny model directories."""

import json
import os
from pathlib import Path

import pytest
import torch

import prunus
from prunus.checkpoint.pretrained import load_pretrained
from prunus.cli import main
from prunus.families import weight_matrix

pytestmark = pytest.mark.usefixtures("quick")
SHORT = ["--batch", "4", "--length", "16", "--minutes", "0.03"]


@pytest.fixture(scope="module")
def pruned(model_dirs, tmp_path_factory):
    """Kind -> directory with zeros and ordinary layers."""
    made = {}
    for kind in ("bert", "llama"):
        made[kind] = tmp_path_factory.mktemp("pruned") / kind
        more = ["--sparsity", "0.6", "--no-accelerate", "--json", "--length", "16"]
        assert main(["prune", str(model_dirs[kind]), "--out", str(made[kind]), *more]) == 0
    return made


def zeros(model):
    linears = [m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    return [weight_matrix(m) == 0 for m in linears]


def recover(pruned, teacher, data, out, *more):
    words = [str(pruned), "--teacher", str(teacher), "--data", str(data), "--out", str(out)]
    return main(["recover", *words, *SHORT, *more])


def test_the_whole_job(pruned, model_dirs, text_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert recover(pruned["bert"], model_dirs["bert"], text_file, out, "--no-accelerate") == 0
    printed = capsys.readouterr().out
    assert "Distill(minutes=0.03)" in printed
    assert f"prunus report {model_dirs['bert']} {out}" in printed
    report = json.loads((out / "prunus_recover.json").read_text())
    assert report["summary"]["after"] > report["summary"]["before"]
    assert len(report["curve"]) >= 3
    assert (out / "prunus_recover.svg").read_text().startswith("<?xml")
    before, after = load_pretrained(pruned["bert"]), load_pretrained(out)
    assert all(bool(b[a].all()) for a, b in zip(zeros(before), zeros(after), strict=True))
    assert sum(int(a.sum()) for a in zeros(before)) > 0
    assert not torch.equal(
        before.encoder.layer[0].output.dense.weight, after.encoder.layer[0].output.dense.weight
    )


def test_it_accelerates_and_prints_json(pruned, model_dirs, text_file, tmp_path, capsys):
    out = tmp_path / "out"
    capsys.readouterr()
    assert recover(pruned["llama"], model_dirs["llama"], text_file, out, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["accelerate"]["summary"]["layers"] > 0
    summary = facts["recover"]["summary"]
    assert summary["after_divergence"] < summary["before_divergence"]
    assert sorted(p.name for p in out.glob("prunus*")) == [
        "prunus.safetensors",
        "prunus_accelerate.json",
        "prunus_prune.json",  # from the pruned directory
        "prunus_recover.json",
        "prunus_recover.svg",
    ]


def test_prune_and_recover_in_one_go(model_dirs, text_file, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--out", str(out), "--batch", "4", "--length", "16", "--calibration", text_file]
    more = ["--sparsity", "0.6", "--recover", "0.03", "--no-accelerate", "--json", "--length", "16"]
    assert main(["prune", str(model_dirs["bert"]), *words, *more]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["recover"]["summary"]["after"] > facts["recover"]["summary"]["before"]
    assert (out / "prunus_recover.svg").exists()
    shares = [float(where.float().mean()) for where in zeros(load_pretrained(out))]
    assert shares == pytest.approx([0.6] * len(shares), abs=0.01)


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("prunus.cli.recover.importlib.util.find_spec", lambda name: None)
    from prunus.cli.recover import draw

    report = prunus.RecoverReport([], {"figure": "cosine", "before": 0.5, "after": 0.6})
    assert "pip install matplotlib" in draw(report, str(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--minutes", "0"], "--minutes: expected minutes > 0, got 0"),
        (["--minutes", "nan"], "--minutes: expected minutes > 0, got nan"),
        (["--batch", "0"], "--batch: expected at least 1, got 0"),
        (["--length", "65"], "--length: expected at most 64, the model's limit, got 65"),
        (["--data", "nowhere.txt"], "--data: expected a text file at 'nowhere.txt'"),
        (["--data", "ONE"], "data: expected at least 2 texts (some are held out), got 1"),
        (["--teacher", "OTHER"], "teacher: expected the model's architecture, model_type bert, got llama"),
        (["--checkpoint", "no/where.pt"], "checkpoint: expected a file in an existing folder"),
    ],
)
def test_refusals_are_sentences_and_write_nothing(
    more, sentence, pruned, model_dirs, text_file, tmp_path, capsys
):
    (tmp_path / "one.txt").write_text("kaba lodo\n")
    known = {"ONE": str(tmp_path / "one.txt"), "OTHER": str(model_dirs["llama"])}
    (tmp_path / "home").mkdir()
    out = tmp_path / "home/out"
    words = [known.get(word, word) for word in more]
    assert recover(pruned["bert"], model_dirs["bert"], text_file, out, *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("prunus: ")
    assert sentence in error
    assert os.listdir(tmp_path / "home") == []


def test_packed_layers_are_refused(model_dirs, text_file, tmp_path, capsys):
    model = load_pretrained(model_dirs["bert"])
    layer = model.encoder.layer[0].output
    layer.dense = prunus.SparseLinear.from_linear(layer.dense)
    from prunus.checkpoint import write_pretrained

    source = tmp_path / "packed"
    write_pretrained(model, model_dirs["bert"], source)
    assert recover(source, model_dirs["bert"], text_file, tmp_path / "out") == 1
    assert "write it with prunus prune --no-accelerate" in capsys.readouterr().err


def test_recovery_needs_text_and_no_target_speed(model_dirs, text_file, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["prune", str(model_dirs["bert"]), "--out", out, "--recover", "1"]) == 1
    assert "--calibration: expected a text file for --recover, got none" in capsys.readouterr().err
    more = ["--calibration", text_file, "--target-speedup", "2", "--recover", "1"]
    assert main(["prune", str(model_dirs["bert"]), "--out", out, *more]) == 1
    assert "--target-speedup: expected no --recover" in capsys.readouterr().err
    assert main(["prune", str(model_dirs["bert"]), "--out", out, *more[:2], "--recover", "-1"]) == 1
    assert "--recover: expected minutes > 0, got -1" in capsys.readouterr().err
    assert not Path(out).exists()
