"""A small GPT trained from scratch on docstrings, once per installation; kept in the user's cache."""

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.quality.corpus import docstrings, fingerprint, split
from prunus._tools.progress import progress

END = "<end>"  # between two docstrings
CHECKS = 20  # of the held-out loss while training


@dataclass(frozen=True)
class Recipe:
    """Model and training; every field is part of the name in the cache."""

    vocabulary: int = 1024
    layers: int = 4
    width: int = 256
    heads: int = 4
    length: int = 128  # tokens the model sees
    characters: int = 1_200_000  # so few that the held-out loss stops falling within the steps
    steps: int = 4000
    batch: int = 8
    rate: float = 2e-3
    seed: int = 0


@dataclass
class SmallGPT:
    """model: GPT2LMHeadModel in evaluation mode, as it was at the least of `losses`. train, held_out: token
    streams. losses: (step, held-out loss in nats per token) during training."""

    model: Any
    train: Tensor
    held_out: Tensor
    losses: list[tuple[int, float]]
    seconds: float


def small_gpt(recipe: Recipe | None = None, cache: Path | None = None) -> SmallGPT:
    """The trained model: from the cache, or trained now (minutes) and put there."""
    recipe = recipe or Recipe()
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: transformers reads it once
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    texts = docstrings(recipe.characters)
    train, held_out = split(texts)
    name = f"gpt-{fingerprint([*texts, json.dumps(asdict(recipe))])}"
    folder = (cache or _cache()) / name
    if not (folder / "training.json").exists():
        _make(recipe, train, held_out, folder)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)
    model.train(False)
    history = json.loads((folder / "training.json").read_text())
    return SmallGPT(
        model,
        _stream(tokenizer, train[: len(train) // 4]),
        _stream(tokenizer, held_out),
        [tuple(pair) for pair in history["losses"]],
        history["seconds"],
    )


def windows(stream: Tensor, length: int, count: int, seed: int | None) -> Tensor:
    """(count, length) pieces of a stream: random ones, or without a seed the first ones, side by side."""
    if seed is None:
        starts = torch.arange(count) * length
    else:
        starts = torch.randint(len(stream) - length, (count,), generator=torch.Generator().manual_seed(seed))
    if int(starts.max()) + length > len(stream):
        raise ValueError(f"text: expected {count} x {length} tokens, got {len(stream)}")
    return torch.stack([stream[start : start + length] for start in starts.tolist()])


@torch.no_grad()
def mean_loss(model: Any, batches: Tensor, size: int = 16) -> float:
    """Nats per predicted token over (count, length) tokens."""
    losses = [float(model(input_ids=part, labels=part).loss) * len(part) for part in batches.split(size)]
    return sum(losses) / len(batches)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunus-bench"


def _make(recipe: Recipe, train: list[str], held_out: list[str], folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        tokenizer = _tokenizer(train, recipe.vocabulary)
        tokenizer.save(str(partial / "tokenizer.json"))
        streams = _stream(tokenizer, train), _stream(tokenizer, held_out)
        start = time.perf_counter()
        model, losses = _train(recipe, *streams)
        model.save_pretrained(partial)
        history = {"losses": losses, "seconds": time.perf_counter() - start, "recipe": asdict(recipe)}
        (partial / "training.json").write_text(json.dumps(history))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _tokenizer(texts: list[str], size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return tokenizer


def _stream(tokenizer: Any, texts: list[str]) -> Tensor:
    end = tokenizer.token_to_id(END)
    return torch.tensor([i for found in tokenizer.encode_batch(texts) for i in (*found.ids, end)])


def _train(recipe: Recipe, train: Tensor, held_out: Tensor) -> tuple[Any, list[tuple[int, float]]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(recipe.seed)
    config = GPT2Config(
        vocab_size=recipe.vocabulary, n_positions=recipe.length, n_embd=recipe.width, n_layer=recipe.layers,
        n_head=recipe.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        loss_type="ForCausalLM",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(recipe.steps))
    # The last windows: perplexity is measured on the first.
    check = windows(held_out, recipe.length, len(held_out) // recipe.length, None)[-64:]
    losses: list[tuple[int, float]] = []
    best: dict[str, Tensor] = {}
    for step, batch in progress(enumerate(_batches(recipe, train), 1), "training the GPT", recipe.steps):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % max(1, recipe.steps // CHECKS) == 0:
            losses.append((step, mean_loss(model, check)))
            print(f"training the GPT: step {step}, held-out loss {losses[-1][1]:.3f}", flush=True)
            if losses[-1][1] == min(found for _, found in losses):
                best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return model, losses


def _batches(recipe: Recipe, train: Tensor) -> Iterator[Tensor]:
    for step in range(recipe.steps):
        yield windows(train, recipe.length, recipe.batch, recipe.seed * recipe.steps + step)


def _rate(steps: int) -> Callable[[int], float]:
    """Share of the learning rate: up over 5 % of the steps, then along a cosine to a tenth. Not to 0: there
    every loss is flat, learnt or not."""
    warm = max(1, steps // 20)
    return lambda step: min((step + 1) / warm, 0.55 + 0.45 * math.cos(math.pi * min(1.0, step / steps)))
