"""Pruned copies of the small models with their teachers, batches, and a tokenizer of letters."""

import copy
from typing import Any

import torch
from small_models import SMALL, small
from torch import Tensor, nn

import prunus


def teacher_of(name: str) -> nn.Module:
    """A fresh copy of the dense model `name`, the same weights every time; "plain" takes vectors."""
    if name != "plain":
        return small(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 6)).eval()


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
    ids = [torch.randint(1, SMALL.vocabulary, (4, 10), generator=generator) for _ in range(count)]
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
        rows = [[1 + ord(letter) % (SMALL.vocabulary - 1) for letter in text] for text in texts]
        if add_special_tokens:
            rows = [[2, *row, 3] for row in rows]
        if options.get("truncation"):
            rows = [row[: options["max_length"]] for row in rows]
        return {"input_ids": rows}
