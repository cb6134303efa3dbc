"""Tiny random models of every known family, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from torch import nn

VOCAB, HIDDEN, LAYERS, HEADS, WIDTH = 97, 32, 3, 4, 48

_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 64,
}
_GPT2 = {"vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": WIDTH}
_NEOX = {**_BERT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_OPT = {**_BERT, "ffn_dim": WIDTH, "word_embed_proj_dim": HIDDEN, "dropout": 0.0}

MAKE: dict[str, Any] = {
    "bert": lambda: tf.BertModel(tf.BertConfig(**_BERT)),
    "bert-mlm": lambda: tf.BertForMaskedLM(tf.BertConfig(**_BERT)),
    "roberta": lambda: tf.RobertaForSequenceClassification(tf.RobertaConfig(**_BERT)),
    "distilbert": lambda: tf.DistilBertModel(
        tf.DistilBertConfig(vocab_size=VOCAB, dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS, hidden_dim=WIDTH)
    ),
    "electra": lambda: tf.ElectraModel(tf.ElectraConfig(**_BERT, embedding_size=HIDDEN)),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_NEOX)),
    "gpt_neox-serial": lambda: tf.GPTNeoXForCausalLM(
        tf.GPTNeoXConfig(**_NEOX, use_parallel_residual=False, attention_bias=False)
    ),
    "phi": lambda: tf.PhiForCausalLM(tf.PhiConfig(**_LLAMA)),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(**_GPT2, n_positions=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    ),
    "opt": lambda: tf.OPTForCausalLM(tf.OPTConfig(**_OPT)),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_LLAMA)),
    "llama-bias": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_LLAMA, mlp_bias=True, attention_bias=True)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**_LLAMA)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_LLAMA)),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**_LLAMA)),
}
FAMILY_OF = {
    "bert": "bert",
    "bert-mlm": "bert",
    "roberta": "bert",
    "distilbert": "distilbert",
    "electra": "bert",
    "gpt_neox": "gpt_neox",
    "gpt_neox-serial": "gpt_neox",
    "phi": "phi",
    "gpt2": "gpt2",
    "opt": "opt",
    "llama": "llama",
    "llama-bias": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "phi3": "phi3",
}
DECODERS = ("gpt2", "gpt_neox", "opt", "llama", "qwen2", "phi", "phi3")


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A model in eval mode whose biases and norms are random too: a zero bias hides mistakes."""
    torch.manual_seed(seed)
    model: nn.Module = MAKE[name]().eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.mul_(6.0)
    return model


def batches(count: int = 2, rows: int = 3, length: int = 12, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Token batches with right padding of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        for row in range(rows):
            mask[row, length - 2 * row :] = 0
        made.append({"input_ids": ids * mask, "attention_mask": mask})
    return made


def output(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Last hidden state or logits at the tokens that are no padding."""
    with torch.no_grad():
        result = model(**batch)
    values: torch.Tensor = result[0]
    return values[batch["attention_mask"].bool()] if values.dim() == 3 else values
