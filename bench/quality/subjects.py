"""The two models that are pruned: an encoder that people use, and a small GPT."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.quality.gpt import Recipe, mean_loss, small_gpt, windows
from bench.quality.metrics import embedding_quality
from prunus.cli.encoder import Encoder, chunks
from prunus.cli.texts import paragraphs, split_texts

Batch = dict[str, Tensor]


class Subject(Protocol):
    """model: the dense one, never changed. timed: the batch for milliseconds, no padding. goal: the figure of
    `quality` that tables and pictures lead with."""

    name: str
    title: str
    goal: str
    model: nn.Module
    timed: Batch

    def calibration(self, seed: int) -> list[Batch]:
        """Sample inputs; the seed chooses the texts."""

    def quality(self, model: nn.Module) -> dict[str, float]:
        """Figures on texts that no calibration has."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Scalar, for methods that need gradients."""


@dataclass
class MiniLM:
    """all-MiniLM-L6-v2, the demo's: paragraphs from docstrings."""

    texts: int = 128  # held out
    samples: int = 64  # for calibration

    name = "minilm"
    title = "all-MiniLM-L6-v2"
    goal = "cosine"
    # Characters of a text to train on, about 64 tokens: texts twice as long took twice the time to the same
    # quality.
    longest = 250

    def __post_init__(self) -> None:
        self.encoder = Encoder()
        self.tokenizer = self.encoder.tokenizer
        self.model = self.encoder.model
        self.pool, held_out = split_texts(paragraphs(8 * (self.texts + self.samples)))
        self.held_out_texts = held_out[: self.texts]
        self.held_out = [self.encoder.tokens(part, 128) for part in chunks(self.held_out_texts, 32)]
        self.timed = self.encoder.full_batch(held_out[::-1], 8, 64)
        self.dense = self.encoder.embed(self.model, self.held_out, "embedding")

    def calibration(self, seed: int) -> list[Batch]:
        chosen = torch.randperm(len(self.pool), generator=torch.Generator().manual_seed(seed))
        texts = [self.pool[i] for i in chosen[: self.samples].tolist()]
        return [self.encoder.tokens(part, 128) for part in chunks(texts, 16)]

    def quality(self, model: nn.Module) -> dict[str, float]:
        return embedding_quality(self.dense, self.encoder.embed(model, self.held_out, "embedding"))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """InfoNCE, as in the encoder's own training: the first half of a text must find its second half among
        the second halves of the batch."""
        ids, real = batch["input_ids"], batch["attention_mask"]
        first = (torch.arange(ids.shape[1]) < real.sum(1, keepdim=True) // 2) & real.bool()
        a, b = (self._embed(model, ids, mask) for mask in (first, real.bool() & ~first))
        return nn.functional.cross_entropy(a @ b.T / 0.05, torch.arange(len(ids)))

    @staticmethod
    def _embed(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return nn.functional.normalize((hidden * mask.unsqueeze(-1)).sum(1), dim=-1)


@dataclass
class GPT:
    """The small GPT: windows of held-out docstrings."""

    recipe: Recipe = field(default_factory=Recipe)
    windows: int = 64
    samples: int = 64

    name = "gpt"
    title = "GPT, 4 x 256, trained from scratch"
    goal = "perplexity"

    def __post_init__(self) -> None:
        self.trained = small_gpt(self.recipe)
        self.model = self.trained.model
        length = self.recipe.length
        self.held_out = windows(self.trained.held_out, length, self.windows, None)
        self.timed = {"input_ids": windows(self.trained.train, length, 8, 0)}

    def calibration(self, seed: int) -> list[Batch]:
        tokens = windows(self.trained.train, self.recipe.length, self.samples, seed)
        return [{"input_ids": part} for part in tokens.split(16)]

    def quality(self, model: nn.Module) -> dict[str, float]:
        return {"perplexity": math.exp(min(50.0, mean_loss(model, self.held_out)))}

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = model(**batch, labels=batch["input_ids"]).loss
        return loss
