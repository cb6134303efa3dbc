"""`prunus recover`: a pruned model directory and the dense one in, a better pruned one out."""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.cli.inputs import (
    SampleSize,
    add_threads,
    check_least,
    check_length,
    is_causal,
    make_inputs,
    quiet_transformers,
    read_texts,
    threads,
)
from prunus.cli.written import add_out, check_out, print_written, write

if TYPE_CHECKING:
    from prunus._tools.report import Report
    from prunus.recover import RecoverReport

__all__ = ["PICTURE", "add_parser", "check_minutes", "draw", "recover_on_text"]

MINUTES = 10.0
PICTURE = "prunus_recover.svg"
PRECISIONS = ("auto", "float32", "bfloat16")


def add_parser(commands: Any) -> None:
    """Add the `recover` command to the command line."""
    parser = commands.add_parser(
        "recover",
        help="train a pruned model directory back towards the dense one, without labels",
        description="Reads a directory written by `prunus prune --no-accelerate` and the dense one it came "
        "from, and trains the weights that are left until they give what the dense model gives. Zeros stay "
        "zero. Writes a new directory with the reports as JSON and the quality over time as a picture. "
        "Ctrl-C writes the best state so far. Everything is offline.",
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="pruned model directory, not accelerated")
    parser.add_argument("--teacher", required=True, metavar="DIR", help="the dense model directory")
    parser.add_argument("--data", required=True, metavar="FILE", help="UTF-8 text, one passage per line")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of training ({MINUTES:g})")
    add_out(parser)
    parser.add_argument("--batch", type=int, default=16, help="passages, or blocks of tokens, a step (16)")
    parser.add_argument("--length", type=int, default=128, help="tokens in each (128)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the text (0)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of training (auto: faster)")
    parser.add_argument("--checkpoint", metavar="FILE", help="where a killed run goes on from")
    parser.add_argument("--no-accelerate", action="store_true", help="layers stay ordinary ones with zeros")
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Recover, accelerate, write; then print the tables or JSON."""
    for name, low in {"batch": 1, "length": 2}.items():
        check_least(name, getattr(options, name), low)
    size = SampleSize(64, options.batch, options.length, options.seed)
    check_out(options.out)
    check_minutes("--minutes", options.minutes)
    texts = read_texts(options.data, "--data")
    with quiet_transformers("recover"), threads(options.threads):
        model, report = _work(options, size, texts)
        reports: dict[str, Report] = {"recover": report}
        if not options.no_accelerate:
            from prunus.accelerate import accelerate_

            batches = make_inputs(model, options.teacher, texts, size, "--data").batches
            longest = max(batches, key=lambda batch: batch["input_ids"].numel())
            reports["accelerate"] = accelerate_(model, longest)
        sizes = write(options, model, reports)
    print_written(options, reports, sizes, draw(report, options.out), options.teacher)
    return 0


def _work(options: argparse.Namespace, size: SampleSize, texts: list[str]) -> tuple[Any, RecoverReport]:
    from rich.console import Console

    from prunus.checkpoint.pretrained import load_pretrained

    with Console(stderr=True).status("loading the models"):
        model, teacher = load_pretrained(options.model), load_pretrained(options.teacher)
    if any("packed" in module._buffers for module in model.modules()):
        raise ValueError(
            f"model directory: expected ordinary layers to train in {options.model!r}, got packed ones: "
            "write it with prunus prune --no-accelerate, or prune and recover in one go with --recover"
        )
    more = {"precision": options.precision, "checkpoint": options.checkpoint}
    return model, recover_on_text(model, teacher, options.teacher, texts, size, options.minutes, more)


def check_minutes(option: str, minutes: float) -> None:
    """ValueError naming the option."""
    if not (minutes > 0 and math.isfinite(minutes)):
        raise ValueError(f"{option}: expected minutes > 0, got {minutes:g}")


def recover_on_text(
    model: Any,
    teacher: Any,
    folder: str,
    texts: list[str],
    size: SampleSize,
    minutes: float,
    more: dict[str, Any] | None = None,
    option: str = "--data",
) -> RecoverReport:
    """`recover_` with `Distill` on all of the text; folder: has the tokenizer. more: options of `Distill`.

    Raises ValueError naming `option` (no tokenizer, too little text), and where training stopped.
    """
    from prunus.recover import Distill, RecoverError, Texts, recover_

    check_length(model, size)
    make_inputs(model, folder, texts[:1] if not is_causal(model) else texts[:64], size, option)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    data = Texts(texts, tokenizer, size.length, size.batch)
    try:
        return recover_(model, teacher, data, Distill(minutes=minutes, seed=size.seed, **(more or {})))
    except RecoverError as error:
        raise ValueError(str(error).removeprefix("recover_: ")) from error


def draw(report: RecoverReport, out: str) -> str:
    """The curve as a picture in `out`; a sentence on it."""
    if importlib.util.find_spec("matplotlib") is None:
        return "No picture of the quality over time: matplotlib is not installed (pip install matplotlib)."
    path = Path(out, PICTURE)
    report.plot(path)
    return f"Quality over time: {path}"
