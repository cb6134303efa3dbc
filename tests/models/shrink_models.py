"""Random models of every known family to cut, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from small_models import KINDS, Sizes, build
from torch import nn

from prunus.families import weight_matrix
from prunus.shrink.groups import BlockGroups

VOCAB, HIDDEN, LAYERS, HEADS, WIDTH = 97, 32, 3, 4, 48
SIZES = Sizes(VOCAB, HIDDEN, LAYERS, HEADS, WIDTH)
# name -> what of `KINDS`, and its options
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in KINDS if name != "roberta-classes"},
    "roberta": ("roberta-classes", {}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "opt": ("opt", {"dropout": 0.0}),
    "llama-bias": ("llama", {"mlp_bias": True, "attention_bias": True}),
    "deberta-v3": ("deberta", {"share_att_key": True}),
    "falcon-by-head": (
        "falcon",
        {"new_decoder_architecture": False, "multi_query": False, "num_kv_heads": 4},
    ),
    "falcon-one-key": ("falcon", {"new_decoder_architecture": False, "bias": False}),
    "falcon-alibi": ("falcon", {"alibi": True}),
}
FAMILY_OF = {name: KINDS[kind].family for name, (kind, _) in VARIANTS.items()}
DECODERS = (
    *("gpt2", "gpt_neox", "opt", "llama", "qwen2", "phi", "phi3", "gptj", "bloom"),
    *("falcon", "falcon-by-head", "falcon-one-key", "falcon-alibi", "mixtral", "qwen3-moe"),
)
# What stays: the heads that the distances of ALiBi count, and the one head of keys. Experts, whose neurons
# have no modules of their own, have their own tests.
STAY = {
    **dict.fromkeys(("bloom", "falcon-alibi", "falcon-one-key"), "heads"),
    **dict.fromkeys(("mixtral", "qwen3-moe"), "neurons"),
}
CASES = [(name, kind) for name in FAMILY_OF for kind in ("neurons", "heads") if STAY.get(name) != kind]


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A model in eval mode whose biases and norms are random too: a zero bias hides mistakes."""
    torch.manual_seed(seed)
    kind, options = VARIANTS[name]
    return random_(build(kind, SIZES, **options).to(dtype))


def random_(model: nn.Module) -> nn.Module:
    """Weights that say something, and noise in all biases and norms."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:  # sines and cosines, which are not saved
                continue
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


def gone_groups(site: BlockGroups, shrunk_site: BlockGroups) -> list[int]:
    """Which groups of `site` the shrunk model lacks, found by their columns of the output weight."""
    before = weight_matrix(site.out).reshape(-1, site.count, site.per)
    after = weight_matrix(shrunk_site.out).reshape(-1, shrunk_site.count, site.per)
    return [
        g
        for g in range(site.count)
        if not any(torch.equal(before[:, g], after[:, h]) for h in range(after.shape[1]))
    ]


def silence_weights(site: BlockGroups, groups: list[int]) -> None:
    """The masked model: the weights (not the biases) of these groups' values are zero."""
    for slot in site.slots:
        if slot.part in ("up", "gate", "v"):
            weight_matrix(slot.module)[slot.rows(torch.tensor(groups))] = 0


def replace_inputs(site: BlockGroups, groups: list[int], means: torch.Tensor) -> None:
    """The masked model with its mean left in place: these groups' activations are constant."""
    columns = site.columns(torch.tensor(groups))

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0].clone()
        x[..., columns] = means[columns]
        return (x, *args[1:])

    site.out.register_forward_pre_hook(hook)
