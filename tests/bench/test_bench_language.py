"""`bench language`: what is decoded, and its table."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import prunus
from bench.language import BEFORE, Contender, language_tables, models


@pytest.fixture
def contender() -> Contender:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=50
    )
    ids = torch.arange(BEFORE + 8)[None] % 50
    return Contender("tiny", transformers.LlamaForCausalLM(config).eval(), ids)


def test_decoding_leaves_the_cache_as_it_was(contender: Contender) -> None:
    assert contender.cache.get_seq_length() == BEFORE
    before = contender.cache.layers[0].keys.clone()
    for _ in range(3):
        contender.decode()
    contender.prompt()
    assert contender.cache.get_seq_length() == BEFORE
    assert torch.equal(contender.cache.layers[0].keys, before)


def test_recovered_models_decode_beside_the_dense_ones(contender: Contender, tmp_path: Path) -> None:
    subject: Any = SimpleNamespace(model=contender.model, held_out=contender.ids)
    with pytest.raises(ValueError, match="expected models of `bench recover --keep`, got none"):
        list(models(subject, tmp_path))
    prunus.save(contender.model, tmp_path / "half-distill-9.safetensors")
    found = [name for name, _ in models(subject, tmp_path)]
    assert found[:2] == ["torch fp32", "torch bf16"]
    assert found[-1] == "prunus int8, half-distill-9"
    assert all(p.dtype == torch.float32 for p in contender.model.parameters())


def test_the_table_has_tokens_a_second_and_quality() -> None:
    shared = {"record": "language", "model": "SmolLM2", "threads": 2, "prompt_tokens": 256}
    figures = {"prompt_us": 2e6, "megabytes": 500.0, "perplexity": 12.345, "agreement": 0.875}
    records = [
        {**shared, **figures, "peer": "torch fp32", "decode_us": 50_000.0},
        {**shared, **figures, "peer": "prunus int8", "decode_us": 20_000.0},
    ]
    (table,) = language_tables(records)
    assert table.rows[1] == ["prunus int8", "50.0", "2.50", "2000", "500", "12.35", "87.5%"]
    assert language_tables([]) == []
