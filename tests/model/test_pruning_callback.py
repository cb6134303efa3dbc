"""PruningCallback in `transformers.Trainer`, on a tiny encoder."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import prunus
from prunus import NM, Block, PruningCallback, Unstructured

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def tiny() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return transformers.BertForSequenceClassification(config)


def train(model: Any, folder: Path, callback: PruningCallback, steps: int = 12) -> Any:
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(0, 40, (64, 6), generator=generator)
    data = [{"input_ids": text, "labels": int(text[0]) % 2} for text in texts]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2,
        logging_steps=2, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, seed=0,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the loader talks of pinned memory
        trainer.train()
    return trainer


def layers(model: Any) -> list[torch.Tensor]:
    return [m.weight for m in model.bert.encoder.modules() if isinstance(m, torch.nn.Linear)]


@pytest.mark.parametrize("pattern", [Unstructured(0.8), NM(2, 4), Block((4, 1), 0.5)], ids=str)
def test_the_trained_model_has_the_pattern(pattern: Any, tmp_path: Path) -> None:
    model, start = tiny(), tiny()
    callback = PruningCallback(pattern, end=0.5, updates=3)
    trainer = train(model, tmp_path, callback)
    target = pattern.n / pattern.m if isinstance(pattern, NM) else 1 - pattern.sparsity
    for weight, before in zip(layers(model), layers(start), strict=True):
        assert float((weight != 0).float().mean()) == pytest.approx(target, abs=0.02)
        kept = weight != 0
        assert not torch.equal(weight[kept], before[kept])
    logged = [entry["sparsity"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == sorted(logged)
    assert logged[-1] == pytest.approx(1 - target, abs=0.02)
    assert callback.sparsity == pytest.approx(1 - target, abs=0.02)


def test_zeros_that_are_there_are_kept(tmp_path: Path) -> None:
    model = tiny()
    prunus.prune_(model, Unstructured(0.5))
    masks = [weight != 0 for weight in layers(model)]
    train(model, tmp_path, PruningCallback(), steps=4)
    assert all(torch.equal(w != 0, mask) for w, mask in zip(layers(model), masks, strict=True))
    with pytest.raises(ValueError, match="weight is zero in part, got none"):
        train(tiny(), tmp_path, PruningCallback(), steps=1)


def test_schedule() -> None:
    due = PruningCallback(Block((4, 4), 0.8), begin=0.2, end=0.6, updates=4).schedule(100)
    assert list(due) == [30, 40, 50, 60]
    assert due[60] == Block((4, 4), 0.8)
    assert [p.sparsity for p in due.values()] == sorted(p.sparsity for p in due.values())
    assert list(PruningCallback(Unstructured(0.8), end=1.0, updates=50).schedule(3)) == [0, 1, 2]
    assert PruningCallback().schedule(10) == {}


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"begin": 0.6, "end": 0.5}, ValueError, "end: expected at least begin, 0.6, got 0.5"),
        ({"end": 1.5}, ValueError, "end: expected 0..1, got 1.5"),
        ({"updates": 0}, ValueError, "updates: expected >= 1, got 0"),
        ({"updates": 1.5}, TypeError, "updates: expected an integer, got float"),
    ],
)
def test_wrong_arguments_are_named(given: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        PruningCallback(Unstructured(0.5), **given)
