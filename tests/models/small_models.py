"""The small transformers of all tests: every known family, of any size, with random weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Sizes:
    """What every family has, whatever its config calls it; width: of the MLP, None: as the family has it."""

    vocabulary: int = 60
    hidden: int = 16
    layers: int = 2
    heads: int = 2
    width: int | None = 32
    positions: int = 64


@dataclass(frozen=True)
class Kind:
    """A model class of `transformers`, its config, what that calls the sizes, and what else it needs."""

    family: str  # prunus' word
    config: str
    model: str
    names: tuple[str, ...]  # of the fields of Sizes, from the first on
    more: Callable[[Sizes], dict[str, Any]] = lambda sizes: {}


USUAL = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
GPT2 = ("vocab_size", "n_embd", "n_layer", "n_head", "n_inner", "n_positions")
DISTIL = ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "max_position_embeddings")
OPT = (*USUAL[:4], "ffn_dim", USUAL[5])
GPTJ = (*GPT2[:5], "n_positions")
# Every layer of the config runs through all blocks of the one group.
ALBERT = (*USUAL[:2], "inner_group_num", *USUAL[3:])
BLOOM = ("vocab_size", "hidden_size", "n_layer", "n_head")  # its MLP is four times as wide as its stream
FALCON = (*USUAL[:4], "ffn_hidden_size", USUAL[5])
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# As DeBERTa-v3, but with projections of its own for the positions.
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4}


def grouped(sizes: Sizes) -> dict[str, Any]:
    """Two query heads share a head of keys and values."""
    return {"num_key_value_heads": sizes.heads // 2, **ENDS}


def halved(sizes: Sizes) -> dict[str, Any]:
    """Rotary positions for a part of each head."""
    return {"rotary_dim": sizes.hidden // sizes.heads // 2, **ENDS}


def falcon(sizes: Sizes) -> dict[str, Any]:
    """Two query heads share a head of keys and values, and all are in one projection."""
    return {"num_kv_heads": sizes.heads // 2, "new_decoder_architecture": True, "bias": True, **ENDS}


def mixture(sizes: Sizes) -> dict[str, Any]:
    """Three experts, of which each token asks two."""
    # The grouped products are not for float64.
    experts: dict[str, Any] = {"experts_implementation": "eager"}
    experts |= {"num_local_experts": 3, "num_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}
    return {**experts, **grouped(sizes)}


def qwen3_moe(sizes: Sizes) -> dict[str, Any]:
    """The width of the experts has a name of its own."""
    return {**mixture(sizes), "moe_intermediate_size": sizes.width}


def modern(sizes: Sizes) -> dict[str, Any]:
    """A window that is narrower than the texts."""
    return {**ENDS, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}


KINDS = {
    "bert": Kind("bert", "BertConfig", "BertModel", USUAL),
    "bert-mlm": Kind("bert", "BertConfig", "BertForMaskedLM", USUAL),
    "roberta": Kind("bert", "RobertaConfig", "RobertaModel", USUAL),
    "roberta-classes": Kind("bert", "RobertaConfig", "RobertaForSequenceClassification", USUAL),
    "electra": Kind("bert", "ElectraConfig", "ElectraModel", USUAL, lambda s: {"embedding_size": s.hidden}),
    "distilbert": Kind("distilbert", "DistilBertConfig", "DistilBertModel", DISTIL),
    "gpt2": Kind("gpt2", "GPT2Config", "GPT2LMHeadModel", GPT2, lambda s: ENDS),
    "gpt_neox": Kind("gpt_neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", USUAL, lambda s: ENDS),
    "opt": Kind("opt", "OPTConfig", "OPTForCausalLM", OPT, lambda s: {"word_embed_proj_dim": s.hidden}),
    "llama": Kind("llama", "LlamaConfig", "LlamaForCausalLM", USUAL, grouped),
    "mistral": Kind("llama", "MistralConfig", "MistralForCausalLM", USUAL, grouped),
    "qwen2": Kind("llama", "Qwen2Config", "Qwen2ForCausalLM", USUAL, grouped),
    "phi": Kind("phi", "PhiConfig", "PhiForCausalLM", USUAL, grouped),
    "phi3": Kind("phi3", "Phi3Config", "Phi3ForCausalLM", USUAL, grouped),
    "albert": Kind("albert", "AlbertConfig", "AlbertModel", ALBERT, lambda s: {"num_hidden_layers": 2}),
    "deberta": Kind("deberta-v2", "DebertaV2Config", "DebertaV2Model", USUAL, lambda s: DEBERTA),
    "modernbert": Kind("modernbert", "ModernBertConfig", "ModernBertModel", USUAL, modern),
    "clip-text": Kind("clip", "CLIPTextConfig", "CLIPTextModel", USUAL, lambda s: ENDS),
    "gptj": Kind("gptj", "GPTJConfig", "GPTJForCausalLM", GPTJ, halved),
    "bloom": Kind("bloom", "BloomConfig", "BloomForCausalLM", BLOOM, lambda s: ENDS),
    "falcon": Kind("falcon", "FalconConfig", "FalconForCausalLM", FALCON, falcon),
    "mixtral": Kind("mixtral", "MixtralConfig", "MixtralForCausalLM", USUAL, mixture),
    "qwen3-moe": Kind("mixtral", "Qwen3MoeConfig", "Qwen3MoeForCausalLM", USUAL, qwen3_moe),
}
# The usual 0.02 would make blocks this narrow close to the identity.
SPREAD = {"initializer_range": 0.2}
SMALL = Sizes()
# Of `small`; bounds in tests are for these weights.
OF_SMALL = {
    "bert": Sizes(positions=512),
    "gpt2": Sizes(width=None, positions=32),
    "llama": Sizes(heads=4),
}


def build(name: str, sizes: Sizes = SMALL, **options: Any) -> nn.Module:
    """A model in evaluation mode, its weights drawn from torch's generator; options: more for its config."""
    import transformers

    kind = KINDS[name]
    values = [getattr(sizes, field) for field in Sizes.__dataclass_fields__]
    named = {key: value for key, value in zip(kind.names, values, strict=False) if value is not None}
    config = getattr(transformers, kind.config)(**{**named, **kind.more(sizes), **options})
    model: nn.Module = getattr(transformers, kind.model)(config)
    return model.eval()


def plain() -> nn.Module:
    """Token ids to vectors, without attention."""
    vocabulary = SMALL.vocabulary
    layers = [nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 8)]
    return nn.Sequential(nn.Embedding(vocabulary, 16), *layers)


_MADE: dict[str, nn.Module] = {}


def small(name: str) -> nn.Module:
    """A fresh copy of the small model of a family, or of `plain`: the same weights every time."""
    if name not in _MADE:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _MADE[name] = plain() if name == "plain" else build(name, OF_SMALL[name], **SPREAD)
    return copy.deepcopy(_MADE[name].eval())


def tokens(count: int = 4, rows: int = 3, length: int = 10, seed: int = 1) -> list[torch.Tensor]:
    """Batches of token ids (rows, length) for the small models."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, SMALL.vocabulary, (rows, length), generator=generator) for _ in range(count)]


def save_bert(folder: Path, words: list[str]) -> None:
    """A tiny BERT that knows those words, with its tokenizer, as `transformers` saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.2, **shape)).save_pretrained(folder)
