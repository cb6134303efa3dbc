"""Tiny models, pruned copies of them, batches, and a tokenizer of letters."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import prunus

VOCABULARY = 60
# The usual 0.02 would make blocks this narrow close to the identity.
SPREAD = {"vocab_size": VOCABULARY, "initializer_range": 0.2}


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(num_hidden_layers=2, **SPREAD, **sizes))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**SPREAD, bos_token_id=0, eos_token_id=0, **sizes))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(**SPREAD, num_hidden_layers=2, **sizes))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 6))


BUILDERS: dict[str, Callable[[], nn.Module]] = {"bert": bert, "gpt2": gpt2, "llama": llama, "plain": plain}
_MADE: dict[str, nn.Module] = {}


def teacher_of(name: str) -> nn.Module:
    """A fresh copy of the dense model `name`, the same weights every time."""
    if name not in _MADE:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _MADE[name] = BUILDERS[name]().eval()
    return copy.deepcopy(_MADE[name])


def pruned_pair(name: str, sparsity: float = 0.6) -> tuple[nn.Module, nn.Module]:
    """A model with zeros, and its teacher."""
    teacher = teacher_of(name)
    model = copy.deepcopy(teacher)
    prunus.prune_(model, prunus.Unstructured(sparsity))
    return model, teacher


def batches_for(name: str, count: int = 12, seed: int = 1) -> list[Any]:
    """Vectors for `plain`; token ids with padding for the transformers."""
    generator = torch.Generator().manual_seed(seed)
    if name == "plain":
        return [torch.randn(8, 12, generator=generator) for _ in range(count)]
    mask = torch.ones(4, 10, dtype=torch.long)
    mask[0, 7:] = 0
    ids = [torch.randint(1, VOCABULARY, (4, 10), generator=generator) for _ in range(count)]
    return [{"input_ids": i, "attention_mask": mask} for i in ids]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def zeros_of(model: nn.Module) -> dict[str, Tensor]:
    """Where the matrices of Linear and Conv1D are zero."""
    linears = [(n, m) for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")]
    return {name: module.weight.detach() == 0 for name, module in linears}


class Letters:
    """A tokenizer as `transformers` calls them: one token a letter."""

    pad_token_id = 0

    def __call__(self, texts: list[str], add_special_tokens: bool = True, **options: Any) -> dict[str, Any]:
        rows = [[1 + ord(letter) % (VOCABULARY - 1) for letter in text] for text in texts]
        if add_special_tokens:
            rows = [[2, *row, 3] for row in rows]
        if options.get("truncation"):
            rows = [row[: options["max_length"]] for row in rows]
        return {"input_ids": rows}
