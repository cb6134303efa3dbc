"""Decoders stay alive: generate() with a key/value cache equals recomputing everything, after every cut."""

from __future__ import annotations

import pytest
import torch
from shrink_models import DECODERS, LAYERS, STAY, batches, make, output
from torch.testing import assert_close

from prunus.families import blocks
from prunus.shrink import Heads, Layers, Neurons, shrink_

TARGETS = {"neurons": Neurons(0.4), "heads": Heads(0.5), "layers": Layers([1]), "first": Layers([0])}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", DECODERS)
def test_cached_generation_equals_generation_without_a_cache(name, target):
    if STAY.get(name) == target:
        return
    model = make(name)
    shrink_(model, TARGETS[target], None if target in ("layers", "first") else batches())
    prompt = {
        "input_ids": torch.tensor([[5, 9, 3, 30]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.long),
    }
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    with torch.no_grad():
        cached = model.generate(**prompt, **options, use_cache=True)
        plain = model.generate(**prompt, **options, use_cache=False)
    assert torch.equal(cached.sequences, plain.sequences)
    assert_close(torch.stack(cached.scores), torch.stack(plain.scores), rtol=0, atol=1e-9)
    assert len(cached.past_key_values) == len(blocks(model))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_cache_slots_are_numbered_from_zero_without_gaps(name):
    model = make(name)
    shrink_(model, Layers([0]))
    indices = [m.layer_idx for m in model.modules() if hasattr(m, "layer_idx")]
    assert indices == list(range(LAYERS - 1))
    assert model.config.num_hidden_layers == LAYERS - 1


def test_per_layer_config_lists_follow_the_blocks():
    model = make("qwen2")
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    shrink_(model, Layers([1]))
    assert model.config.layer_types == ["full_attention"] * 2


@pytest.mark.parametrize("name", [*DECODERS, "bert", "distilbert", "deberta", "modernbert"])
def test_dropping_a_block_equals_skipping_it(name):
    model, skipped = make(name), make(name)
    shrink_(model, Layers([1]))
    block = list(blocks(skipped).values())[1]
    pair = name.startswith(("bloom", "falcon", "deberta"))
    block.forward = lambda hidden, *args, **kwargs: (hidden, None) if pair else hidden
    batch = batches()[0]
    assert_close(output(model, batch), output(skipped, batch), rtol=0, atol=1e-10)
