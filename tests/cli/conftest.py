"""Directories of tiny transformers models with a tokenizer, as a user would have them on disk."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SPREAD, Sizes, build

from prunus.accelerate import race as race_module
from prunus.report import comparison as compare_module

WORDS = [
    f"{a}{b}"
    for a in ("ka", "lo", "mi", "ne", "pu", "ra", "so", "ti")
    for b in ("ba", "do", "fe", "gu", "ha")
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = Sizes(vocabulary=len(SPECIAL) + len(WORDS), hidden=32, layers=2, heads=4, width=64)
# [CLS] begins a text, [SEP] ends it.
ENDS = {"bos_token_id": 2, "eos_token_id": 3}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {},
    "gpt2": ENDS,
    "llama": {**ENDS, "tie_word_embeddings": True},
}


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", **names).save_pretrained(folder)


def sentences(count: int, seed: int) -> str:
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(WORDS, k=rng.randint(4, 12))) for _ in range(count)) + "\n"


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> directory; read only."""
    made = {}
    for kind, options in KINDS.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            build(kind, SIZES, **SPREAD, **options).save_pretrained(made[kind])
        write_tokenizer(made[kind])
    return made


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(sentences(60, 0) + "\n  \n")
    return str(path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements as short as they get."""
    monkeypatch.setattr(race_module, "SECONDS", 0.0)
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)
    monkeypatch.setattr(compare_module, "SECONDS", 0.0)
