"""Directories of tiny transformers models with a tokenizer, as a user would have them on disk."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from prunus.accelerate import race as race_module
from prunus.report import comparison as compare_module

WORDS = [
    f"{a}{b}"
    for a in ("ka", "lo", "mi", "ne", "pu", "ra", "so", "ti")
    for b in ("ba", "do", "fe", "gu", "ha")
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
# The usual 0.02 would make blocks this narrow close to the identity.
COMMON = {"vocab_size": len(SPECIAL) + len(WORDS), "initializer_range": 0.2}


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**SIZES, **COMMON, max_position_embeddings=64))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3}
    return GPT2LMHeadModel(GPT2Config(**sizes, **COMMON))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    extra = {"num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **COMMON, **extra, bos_token_id=2, eos_token_id=3))


KINDS = {"bert": bert, "gpt2": gpt2, "llama": llama}


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
    for kind, build in KINDS.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            build().save_pretrained(made[kind])
        write_tokenizer(made[kind])
    return made


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(sentences(60, 0) + "\n  \n")
    return str(path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measurements as short as they get; one thread: tensors this small only wait for a second one."""
    monkeypatch.setattr(race_module, "SECONDS", 0.0)
    monkeypatch.setattr(race_module, "MIN_PASSES", 1)
    monkeypatch.setattr(compare_module, "SECONDS", 0.0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
