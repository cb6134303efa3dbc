"""bench recover on an encoder of a few thousand weights: records, going on, the table."""

import argparse
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import prunus
from bench import recover
from bench.quality.grid import Cell
from bench.quality.run import Results, run_jobs


class Letters:
    pad_token_id = 0

    def __call__(self, texts: list[str], max_length: int = 16, **options: Any) -> dict[str, Any]:
        return {"input_ids": [[1 + ord(c) % 39 for c in text][:max_length] for text in texts]}


class Tiny:
    name, title, goal, longest = "tiny", "Tiny", "cosine", 250

    def __init__(self) -> None:
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=40, initializer_range=0.2, max_position_embeddings=128, **sizes)
        self.model = BertModel(config, add_pooling_layer=False).eval()
        self.tokenizer = Letters()
        self.held_out_texts = ["a paragraph that is held out"]

    def calibration(self, seed: int) -> list[dict[str, torch.Tensor]]:
        return [{"input_ids": torch.randint(40, (4, 12), generator=torch.Generator().manual_seed(seed))}]

    def quality(self, model: Any) -> dict[str, float]:
        batch = self.calibration(9)[0]
        with torch.no_grad():
            a, b = (m(**batch).last_hidden_state.mean(1) for m in (self.model, model))
        return {"cosine": float(torch.cosine_similarity(a, b).mean())}

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        raise NotImplementedError


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    texts = [f"text number {i} of those that training gets, with words enough" for i in range(60)]
    monkeypatch.setattr(recover, "docstrings", lambda limit: texts)
    monkeypatch.setitem(recover.CELLS, "unstructured", (Cell("magnitude", "row", 0.6),))
    return argparse.Namespace(
        model="minilm",
        cells=["unstructured"],
        recipes=["refit+distill"],
        steps=30,
        threads=1,
        seed=0,
        keep=tmp_path / "kept",
        out=tmp_path / "r.jsonl",
    )


def test_records_and_table(options: argparse.Namespace) -> None:
    subject: Any = Tiny()
    out = Results(options.out, [])
    run_jobs(out, recover.jobs(subject, options), "recover")
    (found,) = [r for r in out.writer.records if r["record"] == "recover"]
    assert found["after"]["cosine"] > found["before"]["cosine"]
    assert [row["method"] for row in found["curve"]][:2] == ["before", "Refit"]
    (table,) = recover.recover_tables(out.writer.records)
    (row,) = table.rows
    assert table.title.startswith("Tiny recovered: cosine")
    assert row[:4] == ["row (magnitude)", "60 %", "refit+distill", "30"]
    assert row[-3] == "1.000"
    assert row[-2:] == [f"{found[when]['cosine']:.3f}" for when in ("before", "after")]
    kept = prunus.load(
        copy.deepcopy(subject.model), options.keep / "unstructured-refit+distill-30.safetensors"
    )
    assert subject.quality(kept) == pytest.approx(found["after"])
    # What is there is not made again.
    again = Results(options.out, [])
    run_jobs(again, recover.jobs(subject, options), "recover")
    assert len(again.writer.records) == len(out.writer.records)


def test_gradual_starts_dense_and_ends_as_sparse(options: argparse.Namespace) -> None:
    options.cells, options.recipes, options.steps = ["neurons", "unstructured"], ["gradual"], 20
    subject: Any = Tiny()
    out = Results(options.out, [])
    run_jobs(out, recover.jobs(subject, options), "recover")
    (found,) = [r for r in out.writer.records if r["record"] == "recover"]  # structure is not gradual
    assert found["cell"] == "unstructured"
    assert "Gradual" in [row["method"] for row in found["curve"]]
    kept = prunus.load(copy.deepcopy(subject.model), options.keep / "unstructured-gradual-20.safetensors")
    zeros = float((kept.encoder.layer[0].output.dense.weight == 0).float().mean())
    assert zeros == pytest.approx(0.6, abs=0.04)


def test_texts_leave_out_what_quality_is_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = "a paragraph that is\nheld out"
    monkeypatch.setattr(recover, "docstrings", lambda limit: [f"Before.\n\n{held_out}\n\nAfter.", "x" * 1200])
    subject: Any = Tiny()
    assert recover.training_texts(subject) == ["x" * 250] * 4 + ["x" * 200]
    subject.longest = None  # a language model reads them whole
    assert recover.training_texts(subject) == ["x" * 1200]
