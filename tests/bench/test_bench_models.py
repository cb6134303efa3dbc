"""The table of whole models, and what its engines answer."""

from types import SimpleNamespace

import torch
from torch import nn

from bench.models import model_tables, of_torch


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
