"""`prunus export`: a model directory as an ONNX or OpenVINO file."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.cli.encoder import MissingPackage
from prunus.cli.inputs import SampleSize, quiet_transformers, random_inputs, reads_text, tokenizer_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_parser"]

ENDINGS = {".onnx": "onnx", ".xml": "openvino"}


def add_parser(commands: Any) -> None:
    """Add the `export` command to the command line."""
    parser = commands.add_parser(
        "export",
        help="write a model directory, dense or pruned, as an ONNX or OpenVINO file",
        description="Reads a transformers model directory, dense or written by `prunus prune`, and writes it "
        "as an ordinary file of another engine: packed layers become dense ones, batch and length are free, "
        "and the answers of the file are checked against the model. Everything is offline.",
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("out", metavar="OUT", help="file to write: .onnx, or .xml with a .bin beside it")
    parser.add_argument("--to", choices=tuple(ENDINGS.values()), help="the engine (by the ending of OUT)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of the weights in the file: float16 for OpenVINO, int8 for ONNX (float32)",
    )
    parser.add_argument("--batch", type=int, default=3, help="texts in the batch that is traced (3)")
    parser.add_argument("--length", type=int, default=24, help="tokens in each (24)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, samples=1, seed=0)


def run(options: argparse.Namespace) -> int:
    """Load, export, print the table or JSON."""
    size = SampleSize.of(options)
    to = options.to or ENDINGS.get(Path(options.out).suffix)
    if to is None:
        raise ValueError(f"OUT: expected a file ending in .onnx or .xml, got {options.out!r}")
    with quiet_transformers("export"):
        from rich.console import Console

        from prunus.checkpoint.pretrained import load_pretrained
        from prunus.engines import export

        with Console(stderr=True).status("loading and exporting the model"):
            model = load_pretrained(options.model)
            try:
                report = export(model, example(model, options.model, size), options.out, to, options.dtype)
            except ImportError as error:
                raise MissingPackage(f"prunus: {error}") from None
    if options.json:
        print(report.to_json())
        return 0
    console = Console()
    show: Callable[..., object] = console.print if console.is_terminal else print
    show(report)
    return 0


def example(model: Any, folder: str, size: SampleSize) -> dict[str, Tensor]:
    """Random tokens with what a tokenizer would give beside them, all but the last half padding.

    Raises ValueError for a model that reads no tokens.
    """
    import torch

    batches = random_inputs(model, size).batches
    if not batches:
        raise ValueError(f"MODEL_DIR: expected a model that reads tokens, got {type(model).__name__}")
    (batch,) = batches
    known = inspect.signature(model.forward).parameters
    ids = batch["input_ids"]
    if "attention_mask" in known:
        mask = torch.ones_like(ids)
        mask[:-1, size.length // 2 :] = 0
        batch["attention_mask"] = mask
    names = tokenizer_of(folder).model_input_names if reads_text(folder) else ()
    if "token_type_ids" in known and "token_type_ids" in names:
        batch["token_type_ids"] = torch.zeros_like(ids)
    return batch
