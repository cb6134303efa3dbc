"""Recipes: the examples run from the shell, the objects do the same, and mistakes are named by their step."""

import json
from pathlib import Path

import pytest
import torch
from small_models import save_bert
from torch import nn

import prunus
from prunus.accelerate import race
from prunus.checkpoint.pretrained import load_pretrained
from prunus.cli import main
from prunus.cli.recipes import Accelerate, Export, Prune, Recipe, Recover, Shrink

HERE = Path(__file__).parent
EXAMPLES = sorted(HERE.glob("*.yaml"))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(a + b for a in "bdfglm" for b in "aeiou")]


@pytest.fixture(autouse=True)
def short(monkeypatch, set_threads):
    monkeypatch.setattr(race, "SECONDS", 0.0)
    monkeypatch.setattr(race, "MIN_PASSES", 1)
    set_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_bert(path, WORDS)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(WORDS[4 + (i * j) % 30] for j in range(1, 9)) for i in range(1, 65)))
    return path


def run(folder, text, out, recipe, *more):
    size = ["--samples", "32", "--batch", "8", "--length", "16"]
    words = ["prune", folder, "--recipe", recipe, "--calibration", text, "--out", out, *size, *more]
    return main([str(word) for word in words])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_from_the_shell(example, folder, text, tmp_path, capsys):
    for package in ("onnx", "onnxruntime", "openvino", "yaml"):
        pytest.importorskip(package)
    recipe = tmp_path / "recipe.yaml"
    # Ten minutes of training are for people.
    recipe.write_text(example.read_text().replace("minutes: 10", "steps: 3"))
    assert run(folder, text, tmp_path / "out", recipe, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    steps = Recipe.read(example).steps
    assert [name for name in said if name[0].isdigit()] == [f"{i}-{s.word}" for i, s in enumerate(steps, 1)]
    for step in steps:
        if isinstance(step, Export):
            assert (tmp_path / "out" / step.file).stat().st_size > 0
    model = load_pretrained(tmp_path / "out")
    ids = torch.arange(4, 16)[None]
    with torch.no_grad():
        close = torch.cosine_similarity(model(ids)[0], load_pretrained(folder)(ids)[0], dim=-1).mean()
    assert 0.3 < close < 0.9999


def test_the_same_as_objects(folder):
    model, ids = load_pretrained(folder), torch.arange(4, 28).reshape(2, 12)
    recipe = Recipe(
        [Shrink(prunus.Neurons(0.5)), Prune(prunus.Unstructured(0.7)), Accelerate(min_speedup=0.0)]
    )
    reports = recipe.run(model, ids, calibration=[ids])
    assert list(reports) == ["1-shrink", "2-prune", "3-accelerate"]
    assert model.config.intermediate_size == 32
    assert reports["3-accelerate"].summary["converted"] >= 12


def test_what_a_step_needs_is_asked_for_first(folder):
    model, ids = load_pretrained(folder), torch.arange(4, 28).reshape(2, 12)
    before = [p.clone() for p in model.parameters()]
    for step, name in ((Recover(), "teacher"), (Export("m.onnx"), "out")):
        with pytest.raises(ValueError, match=f"{name}: expected it for step 2, {step.word}, got none"):
            Recipe([Prune(prunus.Unstructured(0.7)), step]).run(model, ids)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
        Recipe([Accelerate()]).run(3, ids)


def test_an_order_that_cannot_be():
    with pytest.raises(ValueError, match="nothing but export after accelerate, got prune as step 2"):
        Recipe([Accelerate(), Prune(prunus.Unstructured(0.5))])
    with pytest.raises(ValueError, match="at least one, got none"):
        Recipe([])
    with pytest.raises(TypeError, match="got ReLU as step 1"):
        Recipe([nn.ReLU()])


@pytest.mark.parametrize(
    ("yaml", "sentence"),
    [
        ("steps: {prune: 3}", "expected a list under the one key 'steps'"),
        ("step: []", "expected a list under the one key 'steps'"),
        ("steps: [", "expected YAML in"),
        ("steps: [trim]", "step 1: expected one of shrink, prune, recover, accelerate, export, got 'trim'"),
        ("steps: [accelerate, 3]", "step 2: expected one of shrink, .* with its arguments, got 3"),
        ("steps: [prune: 0.5]", "step 1: prune: expected arguments by name, got 0.5"),
        ("steps: [prune: {ratio: 0.5}]", "step 1: prune: expected some of method, .*, got 'ratio'"),
        ("steps: [prune: {pattern: 4x4}]", "step 1: prune: sparsity: expected a share of zeros"),
        ("steps: [prune: {pattern: 2:4}]", "pattern: expected text .*quotes.*, got 124"),
        ("steps: [prune: {pattern: '2:4', sparsity: 0.5}]", "sparsity: expected none with the pattern 2:4"),
        ("steps: [prune: {pattern: rows, sparsity: 0.5}]", "pattern: expected unstructured, N:M"),
        ("steps: [prune: {sparsity: 2}]", "step 1: prune: sparsity: expected"),
        ("steps: [prune: {sparsity: 0.5, method: best}]", "method: expected one of magnitude"),
        ("steps: [prune: {sparsity: 0.5, seed: 1}]", "seed: magnitude does not take it"),
        (
            "steps: [shrink: {neurons: 0.5, heads: 0.5}]",
            "shrink: expected one of neurons, heads, layers, got neurons",
        ),
        ("steps: [shrink: {neurons: 0.5, importance: size}]", "shrink: importance: expected"),
        ("steps: [recover: {minutes: -1}]", "step 1: recover: minutes: expected"),
        ("steps: [accelerate: {precision: int4}]", "accelerate: precision: expected one of"),
        ("steps: [export: {file: m.bin}]", r"export: file: expected a name ending in \.onnx"),
        ("steps: [export: {file: ../m.onnx}]", "file: expected a name without a folder"),
        ("steps: [export: {file: m.xml, dtype: int8}]", "export: dtype: expected one of float32, float16"),
    ],
)
def test_mistakes_are_named(yaml, sentence, tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml)
    with pytest.raises(ValueError, match=f"recipe: .*{sentence}" if "step" not in sentence else sentence):
        Recipe.read(path)


def test_refusals_from_the_shell(folder, text, tmp_path, capsys):
    recipe = HERE / "int8_blocks.yaml"
    assert run(folder, text, tmp_path / "out", recipe, "--sparsity", "0.5") == 1
    assert "--sparsity: expected none beside --recipe" in capsys.readouterr().err
    assert run(folder, text, tmp_path / "out", tmp_path / "no.yaml") == 1
    assert "recipe: expected a file at" in capsys.readouterr().err
    words = [
        "prune",
        str(folder),
        "--recipe",
        str(HERE / "half_of_the_neurons.yaml"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(words) == 1
    assert "--calibration: expected a text file for the step recover, got none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
