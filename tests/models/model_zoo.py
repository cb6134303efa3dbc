"""Small models of every kind that the model verbs must cope with."""

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def sparse_(module: nn.Module, sparsity: float = 0.9, seed: int = 0) -> nn.Module:
    """Zero a random share of every Linear and Conv1D weight, in place."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, Conv1D)) and isinstance(layer.weight, nn.Parameter):
            layer.weight.data *= torch.rand(layer.weight.shape, generator=generator) >= sparsity
    return module


class Tiny(nn.Module):
    """An embedding, two ordinary Linears, a Conv1D, one module in two places, and a tied head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = Conv1D(width, 2 * width)
        self.twice = nn.ModuleList([nn.Linear(width, width, bias=False)] * 2)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, ids: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        x = self.embed(ids)
        x = x + self.down(torch.relu(self.up(x)))
        for layer in self.twice:
            x = x + layer(x)
        x = self.norm(x) * scale
        return {"hidden": x, "logits": self.head(x)}


def tiny(sparsity: float = 0.9, seed: int = 0, width: int = 64) -> Tiny:
    """A pruned Tiny with random weights, in evaluation mode. The tied head stays dense."""
    torch.manual_seed(seed)
    model = Tiny(width).eval()
    table = model.embed.weight.detach().clone()
    sparse_(model, sparsity, seed)
    model.embed.weight.data.copy_(table)
    return model


IDS = torch.arange(60).reshape(4, 15) % 50
