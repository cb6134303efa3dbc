"""Batches for a local model: from a text file and its tokenizer, or random tokens where there is none."""

from __future__ import annotations

import importlib.util
import inspect
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.cli.encoder import MissingPackage, chunks

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

__all__ = [
    "Inputs",
    "SampleSize",
    "add_threads",
    "check_least",
    "check_length",
    "is_causal",
    "make_inputs",
    "quiet_transformers",
    "random_inputs",
    "read_texts",
    "reads_text",
    "threads",
    "tokenizer_of",
]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")


@dataclass(frozen=True)
class SampleSize:
    """samples: texts or blocks in all; batch: per batch; length: tokens in one; seed: which ones."""

    samples: int
    batch: int
    length: int
    seed: int = 0

    @staticmethod
    def add_options(group: Any, samples: int, seed_of: str = "of the choice of samples") -> None:
        """The options of a command that reads samples; samples: how many by default."""
        text = f"passages, or blocks of tokens ({samples})"
        group.add_argument("--samples", type=int, default=samples, help=text)
        group.add_argument("--batch", type=int, default=8, help="per batch, also when timing (8)")
        group.add_argument("--length", type=int, default=128, help="tokens in each (128)")
        group.add_argument("--seed", type=int, default=0, help=f"{seed_of} (0)")

    @classmethod
    def of(cls, options: argparse.Namespace) -> SampleSize:
        """From the options; ValueError naming the wrong one."""
        for name, low in {"samples": 1, "batch": 1, "length": 2}.items():
            check_least(name, getattr(options, name), low)
        return cls(options.samples, options.batch, options.length, options.seed)


def check_least(name: str, value: int | None, least: int) -> None:
    """ValueError naming the option; None: not given."""
    if value is not None and value < least:
        raise ValueError(f"--{name}: expected at least {least}, got {value}")


def add_threads(parser: Any) -> None:
    """The option that `threads` reads."""
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many of torch's threads, or as many as it has; ValueError for less than one."""
    import torch

    from prunus._tools.running import torch_threads

    check_least("threads", count, 1)
    with torch_threads(count or torch.get_num_threads()):
        yield


@dataclass
class Inputs:
    """batches: keywords of forward calls. causal: the model predicts the next token. text: they mean
    something (not random tokens)."""

    batches: list[dict[str, Tensor]] = field(default_factory=list)
    causal: bool = False
    text: bool = False


@contextmanager
def quiet_transformers(command: str) -> Iterator[None]:
    """transformers offline and without its own bars; MissingPackage where it or torch is not installed."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise MissingPackage(
                f"prunus {command} needs the package {name}, which is not installed.\n"
                "Install it with:  pip install torch transformers"
            )
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: transformers reads it once
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def read_texts(path: str, option: str) -> list[str]:
    """The lines of a text file that are not blank; ValueError naming `option`.

    >>> import tempfile
    >>> file = tempfile.NamedTemporaryFile("w+", suffix=".txt")
    >>> _ = file.write("one\\n\\n two\\n"); file.flush()
    >>> read_texts(file.name, "--text")
    ['one', 'two']
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{option}: expected a text file at {path!r}, got none")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: expected UTF-8 text in {path!r}, got {error.reason}") from None
    texts = [line for line in lines if line]
    if not texts:
        raise ValueError(f"{option}: expected text in {path!r}, got nothing but white space")
    return texts


def make_inputs(model: Any, folder: str, texts: list[str], size: SampleSize, option: str) -> Inputs:
    """Batches of real text. A model that predicts the next token gets blocks of exactly `length` tokens of
    the joined text; an encoder gets one row per line, padded, with an attention_mask.

    Raises ValueError: no tokenizer, too little text, a length beyond the model's.
    """
    if not reads_text(folder):
        raise ValueError(f"{option}: expected a tokenizer in {folder!r} to read text with, got none")
    check_length(model, size)
    tokenizer = tokenizer_of(folder)
    causal = is_causal(model)
    if causal or tokenizer.pad_token is None:
        batches = _blocks(tokenizer, texts, size, option)
    else:
        batches = _rows(tokenizer, texts, size, set(inspect.signature(model.forward).parameters))
    for batch in batches:
        _check_vocabulary(model, batch["input_ids"])
    return Inputs([_complete(model, batch) for batch in batches], causal, text=True)


def reads_text(folder: str) -> bool:
    """Whether the directory has a tokenizer."""
    return any((Path(folder) / name).exists() for name in TOKENIZER_FILES)


def tokenizer_of(folder: str) -> Any:
    """The tokenizer in a directory."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def random_inputs(model: Any, size: SampleSize) -> Inputs:
    """One batch of random tokens: good for timing and for comparing outputs. Empty where the model reads no
    tokens."""
    import torch

    words = getattr(model.config, "vocab_size", None)
    if not isinstance(words, int):
        return Inputs()
    check_length(model, size)
    generator = torch.Generator().manual_seed(size.seed)
    ids = torch.randint(0, words, (size.batch, size.length), generator=generator)
    return Inputs([_complete(model, {"input_ids": ids})], is_causal(model))


def is_causal(model: Any) -> bool:
    """Whether the model predicts the next token (and nothing else comes before it)."""
    return bool(model.can_generate()) and not getattr(model.config, "is_encoder_decoder", False)


def _blocks(tokenizer: Any, texts: list[str], size: SampleSize, option: str) -> list[dict[str, Tensor]]:
    import torch

    # A text longer than the model's limit is cut below; the tokenizer need not warn about it.
    ids = tokenizer("\n".join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < 2:
        raise ValueError(f"{option}: expected text of at least 2 tokens, got {len(ids)}")
    length = min(size.length, len(ids))
    starts = list(range(0, len(ids) - length + 1, length))
    if len(starts) > size.samples:
        starts = sorted(random.Random(size.seed).sample(starts, size.samples))
    rows = torch.tensor([ids[start : start + length] for start in starts])
    return [{"input_ids": rows[i : i + size.batch]} for i in range(0, len(rows), size.batch)]


def _rows(tokenizer: Any, texts: list[str], size: SampleSize, known: set[str]) -> list[dict[str, Tensor]]:
    if len(texts) > size.samples:
        texts = random.Random(size.seed).sample(texts, size.samples)
    options = {"padding": True, "truncation": True, "max_length": size.length, "return_tensors": "pt"}
    made = [tokenizer(part, **options) for part in chunks(texts, size.batch)]
    return [{name: tensor for name, tensor in batch.items() if name in known} for batch in made]


def _complete(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder-decoder model wants something to decode."""
    if getattr(model.config, "is_encoder_decoder", False):
        return {**batch, "decoder_input_ids": batch["input_ids"]}
    return batch


def check_length(model: Any, size: SampleSize, option: str = "--length") -> None:
    """ValueError for texts longer than the model takes."""
    limits = [limit for name in POSITIONS if isinstance(limit := getattr(model.config, name, None), int)]
    if limits and size.length > min(limits) > 0:
        raise ValueError(f"{option}: expected at most {min(limits)}, the model's limit, got {size.length}")


def _check_vocabulary(model: Any, ids: Tensor) -> None:
    words = getattr(model.config, "vocab_size", None)
    if isinstance(words, int) and int(ids.max()) >= words:
        raise ValueError(
            f"tokenizer: expected token numbers below {words}, the model's vocabulary, got {int(ids.max())}"
        )
