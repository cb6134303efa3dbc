"""How long pruning itself takes: a stack of the size of BERT-base."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from prunus import Calibration, Magnitude, Method, SparseGPT, Unstructured, Wanda, prune_
from prunus._tools.timing import Times

BLOCKS = 12
TEXTS, LENGTH, BATCH = 32, 128, 8
METHODS: tuple[Method, ...] = (Magnitude(), Wanda(), SparseGPT())


def speed_jobs(quick: bool) -> Iterator[tuple[tuple[Any, ...], Callable[[], dict[str, Any]]]]:
    blocks = 2 if quick else BLOCKS
    for method in METHODS:
        key = ("quality-speed", "speed", str(method), blocks, torch.get_num_threads())
        yield key, partial(speed_record, method, blocks)


def speed_record(method: Method, blocks: int) -> dict[str, Any]:
    """Seconds of `prune_` on random weights and tokens, calibration included, and of one forward pass."""
    torch.manual_seed(0)
    from transformers import BertConfig, BertModel

    # The defaults are BERT-base: 768 wide, 12 heads, 3072 neurons.
    config = BertConfig(num_hidden_layers=blocks, vocab_size=1024)
    model = BertModel(config, add_pooling_layer=False).eval()
    batches = [{"input_ids": part} for part in torch.randint(1024, (TEXTS, LENGTH)).split(BATCH)]
    with torch.no_grad():
        forward = Times()
        forward.add(lambda: [model(**batch) for batch in batches])
    report = prune_(model, Unstructured(0.5, scope="row"), method, Calibration(batches, progress=False))
    return {
        "method": str(method),
        "blocks": blocks,
        "weights": report.summary["weights"],
        "tokens": TEXTS * LENGTH,
        "seconds": report.summary["seconds"],
        "forward_seconds": forward.ms / 1e3,
        "threads": torch.get_num_threads(),
    }
