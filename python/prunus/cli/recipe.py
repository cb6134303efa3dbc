"""`prunus prune --recipe`: the steps of a YAML file in place of options."""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from prunus.cli.encoder import MissingPackage
from prunus.cli.inputs import (
    SampleSize,
    make_inputs,
    quiet_transformers,
    random_inputs,
    read_texts,
    threads,
    tokenizer_of,
)
from prunus.cli.written import check_out, print_written, write

if TYPE_CHECKING:
    from prunus._tools.report import Report
    from prunus.cli.recipes import Recipe

__all__ = ["run_recipe"]


def run_recipe(options: argparse.Namespace, size: SampleSize) -> int:
    """Read, do the steps, write; then print the tables or JSON."""
    check_out(options.out)
    for name, default in options.defaults.items():
        if getattr(options, name) != default:
            raise ValueError(
                f"--{name.replace('_', '-')}: expected none beside --recipe, which says it itself"
            )
    texts = read_texts(options.calibration, "--calibration") if options.calibration else []
    with quiet_transformers("prune"), threads(options.threads), tempfile.TemporaryDirectory() as files:
        from prunus.cli.recipes import Recipe

        try:
            recipe = Recipe.read(options.recipe)
        except ImportError as error:
            raise MissingPackage(f"prunus: {error}") from None
        if any(step.word == "recover" for step in recipe.steps) and not texts:
            raise ValueError("--calibration: expected a text file for the step recover, got none")
        model, reports = _work(options, size, texts, recipe, files)
        sizes = write(options, model, reports)
        made = sorted(os.listdir(files))
        for file in made:
            shutil.move(os.path.join(files, file), options.out)
    note = f"Exported: {', '.join(os.path.join(options.out, file) for file in made)}" if made else ""
    print_written(options, reports, sizes, note, options.model)
    return 0


def _work(
    options: argparse.Namespace, size: SampleSize, texts: list[str], recipe: Recipe, files: str
) -> tuple[Any, dict[str, Report]]:
    import torch
    from rich.console import Console

    from prunus.checkpoint.pretrained import load_pretrained
    from prunus.recover import Texts

    torch.manual_seed(options.seed)
    with Console(stderr=True).status("loading the model"):
        model = load_pretrained(options.model)
        if options.dtype != "auto":
            model.to(getattr(torch, options.dtype))
    made = (
        make_inputs(model, options.model, texts, size, "--calibration")
        if texts
        else random_inputs(model, size)
    )
    if not made.batches:
        raise ValueError(f"MODEL_DIR: expected a model that reads tokens, got {type(model).__name__}")
    longest = max(made.batches, key=lambda batch: batch["input_ids"].numel())
    recovers = any(step.word == "recover" for step in recipe.steps)
    teacher = copy.deepcopy(model) if recovers else None
    data = Texts(texts, tokenizer_of(options.model), size.length, size.batch) if recovers else None
    return model, recipe.run(model, longest, made.batches if texts else None, teacher, data, files)
