"""prunus export: a file from a directory, dense or pruned."""

import json

import pytest
import torch

from prunus.checkpoint.pretrained import load_pretrained
from prunus.cli import main
from prunus.engines import packages

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize(("file", "package"), [("m.onnx", "onnxruntime"), ("m.xml", "openvino")])
def test_a_pruned_encoder(file, package, model_dirs, tmp_path, capsys):
    pytest.importorskip(package)
    pytest.importorskip("onnx")
    pruned, path = tmp_path / "pruned", tmp_path / file
    assert main(["prune", str(model_dirs["bert"]), "--out", str(pruned), "--length", "16"]) == 0
    names = ["input_ids", "token_type_ids", "attention_mask"]
    config = pruned / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_input_names": names}))
    capsys.readouterr()
    assert main(["export", str(pruned), str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    # What its tokenizer gives, and nothing else.
    assert set(summary["inputs"]) == set(names)
    assert all(axes == ["batch", "length"] for axes in summary["inputs"].values())
    assert summary["error"] < 1e-4
    assert path.stat().st_size > 0


def test_a_language_model_as_int8(model_dirs, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    assert main(["export", str(model_dirs["llama"]), str(path), "--to", "onnx", "--dtype", "int8"]) == 0
    assert f"Wrote {path}" in capsys.readouterr().out
    ids = torch.arange(1, 11)[None]  # 0 is padding, whose embedding is zero
    session = onnxruntime.InferenceSession(str(path))
    (logits,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()})
    with torch.no_grad():
        expected = load_pretrained(model_dirs["llama"])(ids).logits
    assert torch.cosine_similarity(torch.from_numpy(logits), expected, dim=-1).min() > 0.95


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["OUT.bin"], "OUT: expected a file ending in .onnx or .xml, got"),
        (["OUT.onnx", "--length", "1"], "--length: expected at least 2, got 1"),
        (["OUT.onnx", "--length", "65"], "--length: expected at most 64"),
        (["OUT.onnx", "--dtype", "float16"], "dtype: expected"),
        (["OUT.xml", "--to", "onnx"], "path: expected a file ending in .onnx"),
    ],
)
def test_refusals(arguments, sentence, model_dirs, tmp_path, capsys):
    given = [word.replace("OUT", str(tmp_path / "out")) for word in arguments]
    assert main(["export", str(model_dirs["bert"]), *given]) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_the_engine(model_dirs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packages, "installed", lambda *names: False)
    assert main(["export", str(model_dirs["bert"]), str(tmp_path / "m.onnx")]) == 1
    assert "pip install 'prunus[export]'" in capsys.readouterr().err
