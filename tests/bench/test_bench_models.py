"""The table of whole models, and what its engines answer."""

import argparse
import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import prunus
from bench import models
from bench.frontier import draw, frontier
from bench.models import model_tables, of_torch, recovered


class Encoder(nn.Module):
    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=input_ids[..., None].bfloat16())


def record(peer: str, us: float, cosine: float) -> dict[str, object]:
    case = {"record": "model", "model": "M", "texts": 8, "length": 64, "threads": 2}
    return {**case, "peer": peer, "min_us": us, "cosine": cosine}


def test_speed_is_against_the_first_of_its_batch() -> None:
    records = [record("torch fp32", 4000.0, 1.0), record("ours", 1000.0, 0.99), {"record": "run"}]
    (table,) = model_tables([*records, record("other", 2000.0, 0.5) | {"texts": 1}])[:1]
    assert table.title == "M, 8 texts of 64 tokens, 2 thread(s)"
    assert table.rows == [["torch fp32", "4.0", "1.00", "1.0000"], ["ours", "1.0", "4.00", "0.9900"]]


def test_answers_of_torch_are_float32() -> None:
    answer = of_torch(Encoder())({"input_ids": torch.tensor([[1, 2]])})
    assert answer.dtype == torch.float32
    assert not answer.requires_grad


def test_recovered_models_race_where_they_can_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    dense = BertModel(BertConfig(vocab_size=40, **sizes), add_pooling_layer=False).eval()
    subject: Any = SimpleNamespace(model=dense)
    args = argparse.Namespace(recovered=tmp_path, threads=1)
    batch = {"input_ids": torch.arange(12).view(2, 6)}
    with pytest.raises(ValueError, match="expected models of `bench recover --keep`, got none in"):
        list(recovered(subject, batch, args))
    small, sparse = copy.deepcopy(dense), copy.deepcopy(dense)
    prunus.shrink_(small, prunus.Neurons(0.5))
    prunus.prune_(sparse, prunus.Unstructured(0.5))
    prunus.save(small, tmp_path / "neurons-distill-9.safetensors")
    prunus.save(sparse, tmp_path / "4x4-distill-9.safetensors")
    monkeypatch.setattr(models, "installed", lambda name: False)
    field = list(recovered(subject, batch, args))
    assert [one.name for one in field] == [
        "prunus int8, 4x4-distill-9",
        "torch bf16, neurons-distill-9",
        "prunus int8 in a bfloat16 model, neurons-distill-9",
        "prunus int8, neurons-distill-9",
    ]
    for one in field:
        assert one.run(batch).isfinite().all()


def test_the_frontier_is_what_nothing_beats_in_both(tmp_path: Path) -> None:
    assert frontier([(1.0, 1.0), (3.0, 0.9), (2.0, 0.8), (2.0, 0.99)]) == [
        (1.0, 1.0),
        (2.0, 0.99),
        (3.0, 0.9),
    ]
    records = [
        record("torch fp32", 4e3, 1.0),
        record("prunus int8, half", 1e3, 0.99),
        record("other", 5e3, 0.5),
    ]
    (path,) = draw([{"record": "run", "cpu": "C", "isa": "i"}, *records], tmp_path)
    picture = path.read_text()
    assert path.name == "frontier-8x64.svg"
    assert ">prunus int8, half<" in picture  # on the frontier: named where it stands
    assert picture.count(">other<") == 1  # in the legend alone
