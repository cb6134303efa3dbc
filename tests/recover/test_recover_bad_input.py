"""What does not fit together is refused with a sentence, and nothing is changed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from recover_models import Letters, batches_for, pruned_pair, same, teacher_of, weights_of
from small_models import Sizes, build
from torch import nn

import prunus
from prunus import Batches, Distill, Texts, recover_


def refused(sentence: str, kind: type[Exception], *arguments: Any, **named: Any) -> None:
    model, *_ = arguments
    if len(arguments) == 3:
        arguments += (Distill(steps=1),)
    before = weights_of(model)
    with pytest.raises(kind, match=sentence):
        recover_(*arguments, **named)
    assert same(before, weights_of(model))


def test_methods() -> None:
    pair = *pruned_pair("plain"), batches_for("plain")
    refused(r"method: expected Distill\(\).*, got the class Distill", TypeError, *pair, Distill)
    refused("method: .* got str", TypeError, *pair, "distill")
    refused("method: expected at least one method, got an empty list", ValueError, *pair, [])


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"minutes": 0}, ValueError, "minutes: expected a finite number > 0, got 0"),
        ({"minutes": -1.0}, ValueError, "minutes"),
        ({"minutes": float("inf")}, ValueError, "minutes"),
        ({"steps": 0}, ValueError, "steps: expected >= 1, got 0"),
        ({"steps": 2.5}, TypeError, "steps: expected an integer, got float"),
        ({"accumulate": 0}, ValueError, "accumulate"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"precision": "float16"}, ValueError, "precision: expected auto, float32, bfloat16, got 'float16'"),
        ({"loss": 3}, TypeError, "loss: expected a function, got int"),
    ],
)
def test_options_of_distill(options: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        Distill(**options)


def test_teachers() -> None:
    model, teacher = pruned_pair("bert")
    data = batches_for("bert")
    refused("teacher: expected a torch.nn.Module, got int", TypeError, model, 3, data)
    refused("teacher: expected a model of its own", ValueError, model, model, data)
    tied = copy.deepcopy(teacher)
    tied.encoder.layer[0].output.dense.weight = model.encoder.layer[0].output.dense.weight
    refused("one that shares weights with the pruned model", ValueError, model, tied, data)
    refused(
        "expected the model's architecture, model_type bert, got gpt2",
        ValueError,
        model,
        teacher_of("gpt2"),
        data,
    )
    other = copy.deepcopy(teacher)
    other.config.vocab_size = 61
    refused("expected the model's vocabulary, vocab_size 60, got 61", ValueError, model, other, data)
    fewer = copy.deepcopy(teacher)
    del fewer.encoder.layer[0]
    refused("teacher: expected at least 2 blocks", ValueError, model, fewer, data)


def test_a_teacher_of_another_width() -> None:
    model, _ = pruned_pair("bert")
    wide = build("bert", Sizes(hidden=24))
    refused(r"teacher: expected outputs of the shapes .*16.*24", ValueError, model, wide, batches_for("bert"))


def test_models() -> None:
    _, teacher = pruned_pair("plain")
    data = batches_for("plain")
    with pytest.raises(ValueError, match="model: expected parameters to train, got none"):
        recover_(nn.ReLU(), teacher, data)
    frozen = pruned_pair("plain")[0].requires_grad_(False)
    refused("at least one parameter that requires grad", ValueError, frozen, teacher, data, Distill(steps=1))
    model, _ = pruned_pair("plain")
    refused("filter_fn: expected", ValueError, model, teacher, data, Distill(steps=1), lambda m, n: False)
    packed = nn.Sequential(prunus.SparseLinear.from_linear(model[0]), nn.ReLU(), copy.deepcopy(model[2]))
    with pytest.raises(ValueError, match="packed ones such as 0; recover before accelerate_"):
        recover_(packed, teacher, data)


def test_data(tmp_path: Path) -> None:
    pair = pruned_pair("bert")
    letters = Letters()
    refused("data: expected an iterable of batches", TypeError, *pair, 3)
    refused("data: expected an iterable of batches.* got Tensor", TypeError, *pair, torch.ones(2, 3))
    refused("data: expected more than 1 batches", ValueError, *pair, [])
    refused("data: expected more than 1 batches", ValueError, *pair, batches_for("bert", 1))
    refused("data: expected more than 4 batches .* got 2", ValueError, *pair, iter(batches_for("bert", 2)))
    refused("at least one batch held out", ValueError, *pair, Batches(batches_for("bert"), []))
    path = tmp_path / "text.txt"
    refused("data: expected a text file at .*No such file", ValueError, *pair, Texts(path, letters))
    path.write_text("one line\n")
    refused("data: expected a tokenizer beside a text file", ValueError, *pair, path)
    refused("at least 2 texts .* got 1", ValueError, *pair, Texts(path, letters))
    path.write_bytes(b"\xff\xfe broken")
    refused("data: expected UTF-8 text", ValueError, *pair, Texts(path, letters))
    refused("data: expected texts as strings", TypeError, *pair, Texts(["a", 3], letters))
    lm = pruned_pair("gpt2")
    refused("at least 2 texts .* got 0", ValueError, *lm, Texts(["a"], letters))


def test_the_tokenizer_of_a_teacher_in_a_directory(tmp_path: Path) -> None:
    model, teacher = pruned_pair("bert")
    teacher.save_pretrained(tmp_path / "dense")
    text = tmp_path / "text.txt"
    text.write_text("some\nlines\nof text\n")
    refused("data: expected a tokenizer in .*dense", ValueError, model, tmp_path / "dense", text)
    report = recover_(model, tmp_path / "dense", batches_for("bert", 30), Distill(steps=40))
    assert report.summary["after"] > report.summary["before"]


def test_labels_are_left_out_and_noted() -> None:
    model, teacher = pruned_pair("gpt2")
    data = [batch | {"labels": batch["input_ids"]} for batch in batches_for("gpt2")]
    report = recover_(model, teacher, data, Distill(steps=1))
    assert report.summary["notes"] == [
        "labels in the data were not used: recovery needs none (a loss of yours may)"
    ]


def test_the_report_prints_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model, teacher = pruned_pair("plain")
    report = recover_(model, teacher, batches_for("plain"), [Distill(steps=10), Distill(steps=5)])
    assert "Distill(steps=10)" in str(report)
    assert report.summary_line().startswith(f"cosine {report.summary['before']:.4f} before")
    assert len(report.to_dict()["curve"]) == 1 + 10 + 1 + 5 + 1
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        report.plot(tmp_path / f"curve.{kind}")
        assert (tmp_path / f"curve.{kind}").read_bytes().startswith(start)
