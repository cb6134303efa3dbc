"""prunus prune on tiny model directories: the whole job, and nothing half written."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import prunus
from prunus.accelerate import verb as accelerate_module
from prunus.calibration import Calibration
from prunus.checkpoint import pretrained as pretrained_module
from prunus.checkpoint.pretrained import load_pretrained, weight_bytes
from prunus.cli import main
from prunus.cli import prune as prune_module
from prunus.families import weight_matrix
from prunus.methods import Method
from prunus.methods.known import METHODS

pytestmark = pytest.mark.usefixtures("quick")
SMALL = ["--samples", "12", "--batch", "4", "--length", "16"]
IDS = torch.arange(2, 34).reshape(2, 16)


def prune(source, out, *more):
    return main(["prune", str(source), "--out", str(out), *SMALL, *more])


def output(model):
    with torch.no_grad():
        return model(IDS)[0]


def zeros(model):
    """Share of zeros of every weight in the blocks, by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, prunus.SparseLinear):
            found[name] = module.packed_weight.sparsity
        elif type(module).__name__ in ("Linear", "Conv1D") and "." in name:
            weight = weight_matrix(module)
            found[name] = 1 - int(weight.count_nonzero()) / weight.numel()
    return {name: share for name, share in found.items() if "layer" in name or ".h." in name}


@pytest.fixture
def always_faster(monkeypatch):
    """Every timed layer counts as faster sparse."""
    choose = accelerate_module._choose
    monkeypatch.setattr(accelerate_module, "_choose", lambda s, c, times, _: choose(s, c, times, 0.0))


@pytest.mark.usefixtures("always_faster")
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_the_whole_job(kind, model_dirs, text_file, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(model_dirs[kind], source)
    dense = load_pretrained(source)
    wanted = ["--method", "wanda", "--sparsity", "0.75", "--calibration", text_file]
    assert prune(source, out, *wanted) == 0
    printed = capsys.readouterr().out
    assert "Wanda(), Unstructured(sparsity=0.75, scope='row')" in printed
    assert "Linear layers run sparse" in printed
    assert f"prunus.load_pretrained('{out}')" in printed
    assert weight_bytes(out) < weight_bytes(source)
    shutil.rmtree(source)  # the new directory stands alone
    model = load_pretrained(out)
    assert type(model) is type(dense)
    assert not model.training
    shares = zeros(model)
    assert len(shares) == {"bert": 12, "gpt2": 8, "llama": 14}[kind]
    assert set(shares.values()) == {0.75}
    assert any(isinstance(module, prunus.SparseLinear) for module in model.modules())
    assert AutoTokenizer.from_pretrained(out, local_files_only=True)("kaba lodo")["input_ids"][1] == 5
    assert not torch.allclose(output(model), output(dense), atol=1e-3)
    tied = kind != "bert"
    assert not tied or model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if tied:
        ids = model.generate(IDS[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert ids.shape == (2, 7)


def test_equals_the_verbs_in_python(model_dirs, text_file, tmp_path):
    """The directory holds what prune_ makes of the same tokens; and prunus.load reads it too."""
    out = tmp_path / "out"
    assert (
        prune(model_dirs["llama"], out, "--method", "wanda", "--calibration", text_file, "--samples", "999")
        == 0
    )
    lines = [line for line in Path(text_file).read_text().splitlines() if line.strip()]
    tokenizer = AutoTokenizer.from_pretrained(model_dirs["llama"])
    ids = tokenizer("\n".join(lines), add_special_tokens=False)["input_ids"]
    rows = torch.tensor([ids[i : i + 16] for i in range(0, len(ids) - 15, 16)])
    expected = load_pretrained(model_dirs["llama"])
    batches = [{"input_ids": part} for part in torch.split(rows, 4)]
    prunus.prune_(expected, prunus.Unstructured(0.5, scope="row"), prunus.Wanda(), Calibration(batches))
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out))
    for model in (load_pretrained(out), prunus.load(fresh, out / "prunus.safetensors").eval()):
        torch.testing.assert_close(output(model), output(expected), rtol=1e-4, atol=1e-5)


def test_json_and_the_reports_beside_the_weights(model_dirs, tmp_path, capsys):
    out = tmp_path / "out"
    assert prune(model_dirs["bert"], out, "--pattern", "2:4", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["prune"]["summary"]["sparsity"] == 0.5
    assert facts["prune"]["summary"]["pattern"] == "NM(n=2, m=4)"
    assert facts["accelerate"]["summary"]["layers"] == 13
    assert facts["bytes_after"] == os.path.getsize(out / "prunus.safetensors")
    for name in ("prune", "accelerate"):
        assert json.loads((out / f"prunus_{name}.json").read_text()) == facts[name]


@pytest.mark.parametrize(
    ("more", "method"),
    [
        (["--method", "sparsegpt", "--repair", "--steps", "2"], "SparseGPT(steps=2, repair=True)"),
        (["--method", "magnitude-row", "--scope", "model"], "Magnitude(normalize='row')"),
        (["--method", "wanda", "--allocation", "owl"], "Wanda()"),
        (["--method", "wanda", "--allocation", "sensitivity", "--pattern", "4x4"], "Wanda()"),
        (["--method", "snip"], "SNIP(loss, steps=1, repair=False)"),
        (["--method", "taylor"], "Taylor(loss, steps=1, repair=False)"),
        (["--method", "random", "--seed", "3"], "Random(seed=3)"),
    ],
)
def test_options_reach_the_verbs(more, method, model_dirs, text_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert prune(model_dirs["gpt2"], out, "--calibration", text_file, "--no-accelerate", "--json", *more) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["prune"]["summary"]["method"] == method
    assert facts["prune"]["summary"]["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert "accelerate" not in facts
    model = load_pretrained(out)
    assert not any(isinstance(module, prunus.SparseLinear) for module in model.modules())
    if "owl" in more or "sensitivity" in more or "model" in more:
        assert len(set(zeros(model).values())) > 1


def test_a_target_speed(model_dirs, text_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("prunus.balance.table.LEVEL_SECONDS", 0.0)
    monkeypatch.setattr("prunus.balance.table.WHOLE_SECONDS", 0.0)
    out = tmp_path / "out"
    more = ["--method", "wanda", "--target-speedup", "1.0", "--calibration", text_file]
    assert prune(model_dirs["llama"], out, *more) == 0
    printed = capsys.readouterr().out
    assert "measured" in printed
    assert "Wanda(), Unstructured levels for 1x" in printed
    report = json.loads((out / "prunus_balance.json").read_text())
    assert report["summary"]["target_ms"] > 0
    assert load_pretrained(out)(IDS).logits.isfinite().all()


def test_the_same_seed_gives_the_same_weights(model_dirs, text_file, tmp_path):
    files = []
    for seed in ("1", "1", "2"):
        out = tmp_path / str(len(files))
        more = ["--method", "wanda", "--calibration", text_file, "--no-accelerate", "--seed", seed]
        assert prune(model_dirs["bert"], out, *more) == 0
        files.append(load_file(out / "prunus.safetensors"))
    first, same, other = files
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_another_dtype_is_in_the_config(model_dirs, tmp_path):
    assert prune(model_dirs["llama"], tmp_path / "out", "--dtype", "bfloat16") == 0
    model = load_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"


def test_without_a_tokenizer_random_tokens_are_timed(model_dirs, text_file, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(model_dirs["bert"], source)
    for file in source.glob("tok*"):
        file.unlink()
    assert prune(source, tmp_path / "out") == 0
    assert "Linear layers run sparse" in capsys.readouterr().out
    assert prune(source, tmp_path / "more", "--method", "wanda", "--calibration", text_file) == 1
    assert "--calibration: expected a tokenizer in" in capsys.readouterr().err


def test_weights_that_are_not_in_the_files_are_named(model_dirs, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(model_dirs["bert"], source)
    tensors = load_file(source / "model.safetensors")
    del tensors["pooler.dense.weight"]
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.warns(
        UserWarning, match="1 weights are not in the files and random now: pooler.dense.weight"
    ):
        load_pretrained(source)


def broken(tmp_path, model_dirs, change):
    source = tmp_path / "broken"
    shutil.copytree(model_dirs["bert"], source)
    change(source)
    return str(source)


def no_weights(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def no_config(source):
    (source / "config.json").unlink()


def cut(source):
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(data[:-100])


def no_linear(source):
    """A model of embeddings and convolutions only."""
    from transformers import ResNetConfig, ResNetModel

    shutil.rmtree(source)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    ResNetModel(config).save_pretrained(source)


@pytest.mark.parametrize(
    ("change", "more", "sentence"),
    [
        (None, ["--method", "wanda"], "--calibration: expected a text file for --method wanda, got none"),
        (None, ["--calibration", "nowhere.txt"], "--calibration: expected a text file at 'nowhere.txt'"),
        (None, ["--calibration", "EMPTY"], "got nothing but white space"),
        (None, ["--calibration", "LATIN"], "--calibration: expected UTF-8 text"),
        (None, ["--sparsity", "1.5"], "sparsity: expected"),
        (None, ["--pattern", "3by3"], "--pattern: expected unstructured, N:M"),
        (None, ["--steps", "0"], "steps: expected >= 1, got 0"),
        (None, ["--length", "65"], "--length: expected at most 64, the model's limit, got 65"),
        (None, ["--samples", "0"], "--samples: expected at least 1, got 0"),
        (None, ["--threads", "0"], "--threads: expected at least 1, got 0"),
        (None, ["--target-speedup", "2", "--sparsity", "0.5"], "--target-speedup: expected no --sparsity"),
        (None, ["--target-speedup", "999"], "target: expected at least"),
        (None, ["--max-error", "0.1"], "--max-error: expected --target-speedup beside it"),
        (None, ["--target-speedup", "1", "--max-error", "-1"], "max_error: expected > 0"),
        (None, ["--method", "snip", "--calibration", "TEXT"], "--method: snip needs a loss"),
        (no_weights, [], "model directory: expected safetensors files in"),
        (no_config, [], "model directory: expected config.json in"),
        (cut, [], "model directory: expected complete safetensors files in"),
        (no_linear, [], "model: expected at least one Linear or Conv1D to prune, got none"),
        (shutil.rmtree, [], "model directory: expected a directory at"),
    ],
)
def test_refusals_are_sentences_and_write_nothing(
    change, more, sentence, model_dirs, text_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("prunus.balance.table.LEVEL_SECONDS", 0.0)
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9\n")
    texts = {"TEXT": text_file, "EMPTY": str(tmp_path / "empty.txt"), "LATIN": str(tmp_path / "latin.txt")}
    source = broken(tmp_path, model_dirs, change) if change else model_dirs["bert"]
    (tmp_path / "home").mkdir()
    capsys.readouterr()  # what transformers printed while the directory was made
    assert prune(source, tmp_path / "home/out", *(texts.get(word, word) for word in more)) == 1
    error = capsys.readouterr().err
    assert error.startswith("prunus: ")
    assert sentence in error
    assert os.listdir(tmp_path / "home") == []


def test_an_unknown_method_names_the_known_ones(model_dirs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        prune(model_dirs["bert"], tmp_path / "out", "--method", "wand")
    error = capsys.readouterr().err
    assert "argument --method: invalid choice: 'wand'" in error
    assert "sparsegpt" in error


def test_what_is_there_already_is_left_alone(model_dirs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert prune(model_dirs["bert"], tmp_path / "out") == 1
    assert "--out: expected a directory that does not exist yet" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == ["mine.txt"]
    assert prune(model_dirs["bert"], tmp_path / "no/where") == 1
    assert "--out: expected a directory in an existing one" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_nothing(error, model_dirs, tmp_path, monkeypatch, capsys):
    def fail(model, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(pretrained_module, "save", fail)
    assert prune(model_dirs["bert"], tmp_path / "out") == (1 if isinstance(error, OSError) else 130)
    assert os.listdir(tmp_path) == []
    assert ("disk full" in capsys.readouterr().err) == isinstance(error, OSError)


class Smallest(Method):
    name = "smallest"

    def scores(self, weight, stats):
        return -weight.abs()


def test_a_method_of_the_list_is_a_choice(model_dirs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prune_module, "METHODS", METHODS | {"smallest": Smallest})
    assert prune(model_dirs["bert"], tmp_path / "out", "--method", "smallest", "--no-accelerate") == 0
    assert "Smallest()" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["prune", "--help"])
    words = capsys.readouterr().out
    assert all(word in words for word in (*METHODS, "smallest"))
    assert "row for sparsegpt and wanda" in " ".join(words.split())


def seen_tokens(monkeypatch):
    """The shapes of the example inputs that accelerate_ gets."""
    from prunus import accelerate

    seen, real = [], accelerate.accelerate_

    def watched(model, example, precision):
        seen.extend(tuple(batch["input_ids"].shape) for batch in example)
        return real(model, example, precision)

    monkeypatch.setattr(accelerate, "accelerate_", watched)
    return seen


@pytest.mark.parametrize(
    ("options", "shapes", "lines"),
    [
        ([], [(4, 16)], ["batch of 4x16: "]),
        (["--tokens", "5"], [(1, 5)], ["5 tokens: "]),
        (["--tokens", "40"], [(1, 40)], ["40 tokens: "]),
        (["--decode"], [(1, 1)], ["one token after 1: "]),
        (["--decode", "--tokens", "7"], [(1, 7), (1, 1)], ["7 tokens: ", "one token after 1: "]),
        (["--decode", "--length", "40"], [(1, 1)], ["one token after 24: "]),
    ],
)
def test_what_it_is_fast_at(options, shapes, lines, model_dirs, text_file, tmp_path, capsys, monkeypatch):
    seen = seen_tokens(monkeypatch)
    given = ["--calibration", text_file, "--sparsity", "0.8"]
    for kind in ("gpt2", "llama"):
        seen.clear()
        assert prune(model_dirs[kind], tmp_path / kind, *given, *options) == 0
        assert seen == shapes
        printed = capsys.readouterr().out
        for line in lines:
            found = [text for text in printed.splitlines() if text.startswith(line)]
            assert len(found) == 1
            assert re.search(r"[\d.]+ ms before, [\d.]+ ms after packing \([\d.]+x\)$", found[0])


def test_regimes_that_do_not_fit(model_dirs, tmp_path, capsys):
    for kind, options, sentence in (
        ("bert", ["--decode"], "--decode: expected a model that predicts the next token"),
        ("gpt2", ["--tokens", "0"], "--tokens: expected at least 1, got 0"),
        ("gpt2", ["--tokens", "65"], "--tokens: expected at most 64, the model's limit, got 65"),
    ):
        assert prune(model_dirs[kind], tmp_path / "out", *options) != 0
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_whole_model_times_are_in_the_json(model_dirs, tmp_path, capsys):
    assert prune(model_dirs["llama"], tmp_path / "out", "--decode", "--tokens", "9", "--json") == 0
    found = json.loads(capsys.readouterr().out)["accelerate"]["summary"]["whole_model"]
    assert [row["name"] for row in found] == ["9 tokens", "one token after 1"]
    assert all(row["ms_before"] > 0 and row["ms_after"] > 0 for row in found)
