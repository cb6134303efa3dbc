"""`bench language`: what is decoded, and its table."""

import pytest
import torch
import transformers

from bench.language import BEFORE, Contender, language_tables


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
