"""`prunus report`: two model directories side by side."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prunus.cli.encoder import MissingPackage
from prunus.cli.inputs import (
    Inputs,
    SampleSize,
    add_threads,
    make_inputs,
    quiet_transformers,
    random_inputs,
    read_texts,
    threads,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.report.comparison import CompareReport

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the `report` command to the command line."""
    parser = commands.add_parser(
        "report",
        help="quality, milliseconds and megabytes of a model before and after pruning",
        description="Loads two transformers model directories, dense or written by `prunus prune`, and runs "
        "both on the same tokens. With --text: perplexity and agreement on the next token for models that "
        "predict it, the cosine of sentence embeddings for encoders. Without: random tokens, which are good "
        "for time and for the distance of the outputs only.",
    )
    parser.add_argument("before", metavar="BEFORE_DIR")
    parser.add_argument("after", metavar="AFTER_DIR")
    parser.add_argument(
        "--text", metavar="FILE", help="UTF-8 text, one passage per line; not the calibration's"
    )
    SampleSize.add_options(parser, 32)
    add_threads(parser)
    parser.add_argument(
        "--engines",
        action="store_true",
        help="also measure both in every engine that is installed: torch, ONNX Runtime, OpenVINO, prunus",
    )
    parser.add_argument("--compiled", action="store_true", help="with --engines: torch.compile too, minutes")
    parser.add_argument("--picture", metavar="FILE", help="with --engines: the frontier as .svg or .png")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load both, compare, print the table or JSON."""
    size = SampleSize.of(options)
    _check(options)
    texts = read_texts(options.text, "--text") if options.text else []
    with quiet_transformers("report"), threads(options.threads):
        report = _compare(options, size, texts)
    if options.picture and report.engines is not None:
        report.engines.plot(options.picture)
    if options.json:
        print(report.to_json())
        return 0
    from rich.console import Console

    console = Console()
    show: Callable[..., object] = console.print if console.is_terminal else print
    show(report)
    if not texts:
        print("Outputs were compared on random tokens: give --text for quality on real text.")
    return 0


def _check(options: argparse.Namespace) -> None:
    """ValueError for options that need another, MissingPackage for a picture that cannot be drawn."""
    for name in ("compiled", "picture"):
        if getattr(options, name) and not options.engines:
            raise ValueError(f"--{name}: expected --engines beside it")
    if options.picture and importlib.util.find_spec("matplotlib") is None:
        raise MissingPackage("prunus: --picture needs the package matplotlib: pip install matplotlib")


def _engines(options: argparse.Namespace) -> list[str]:
    if not options.engines:
        return []
    from prunus.report.frontier import choose_engines

    names = choose_engines(True)
    return choose_engines([*names, "torch compiled bfloat16"]) if options.compiled else names


def _compare(options: argparse.Namespace, size: SampleSize, texts: list[str]) -> CompareReport:
    import torch
    from rich.console import Console

    from prunus import compare
    from prunus._tools.running import evaluating
    from prunus.checkpoint.pretrained import load_pretrained, weight_bytes

    torch.manual_seed(size.seed)
    with Console(stderr=True).status("loading the models"):
        before, after = load_pretrained(options.before), load_pretrained(options.after)
    inputs = (
        make_inputs(before, options.before, texts, size, "--text") if texts else random_inputs(before, size)
    )
    if not inputs.batches:
        raise ValueError(f"BEFORE_DIR: expected a model that reads tokens, got {type(before).__name__}")
    cached = [{**batch, "use_cache": False} if inputs.causal else batch for batch in inputs.batches]
    report = compare(before, after, cached, _engines(options))
    disk = [weight_bytes(options.before), weight_bytes(options.after)]
    _add(
        report, "weights on disk, MB", [b / 1e6 for b in disk], f"{disk[1] / max(1, disk[0]):.2f}x the bytes"
    )
    report.summary |= {"disk_before": disk[0], "disk_after": disk[1]}
    if inputs.text:
        with evaluating(before, after):
            (_add_language if inputs.causal else _add_embedding)(report, before, after, inputs)
    report.title = f"{options.before} and {options.after}"
    return report


def _add(report: CompareReport, figure: str, values: list[float] | None, change: str) -> None:
    row: dict[str, Any] = {"figure": figure, "change": change}
    report.rows.append(row | ({"before": values[0], "after": values[1]} if values else {}))


def _add_language(report: CompareReport, before: nn.Module, after: nn.Module, inputs: Inputs) -> None:
    """Perplexity, and how often both think the same token comes next."""
    from torch.nn.functional import cross_entropy

    losses, same, count = [0.0, 0.0], 0, 0
    for batch in inputs.batches:
        ids = batch["input_ids"]
        logits = [model(**batch, use_cache=False).logits[:, :-1].float() for model in (before, after)]
        for i, each in enumerate(logits):
            losses[i] += float(cross_entropy(each.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
        same += int((logits[0].argmax(-1) == logits[1].argmax(-1)).sum())
        count += ids[:, 1:].numel()
    perplexity = [_exp(loss / count) for loss in losses]
    change = f"{perplexity[1] / perplexity[0]:.3f}x the perplexity"
    _add(report, "perplexity", perplexity, change)
    _add(report, "same next token", None, f"{same / count:.1%} of {count:,}")
    report.summary |= {
        "perplexity_before": perplexity[0],
        "perplexity_after": perplexity[1],
        "same_next_token": same / count,
        "tokens": count,
    }


def _exp(loss: float) -> float:
    import math

    return math.exp(loss) if loss < 700 else math.inf


def _add_embedding(report: CompareReport, before: nn.Module, after: nn.Module, inputs: Inputs) -> None:
    """Cosine of the sentence embeddings: last hidden states, mean over the tokens that are no padding."""
    import torch

    cosines = []
    for batch in inputs.batches:
        a, b = (_embedding(model(**batch), batch) for model in (before, after))
        if a is None or b is None:
            return
        cosines.append(torch.nn.functional.cosine_similarity(a, b, dim=-1))
    cosine = torch.cat(cosines)
    low = float(cosine.min())
    _add(report, "sentence embedding", None, f"cosine {float(cosine.mean()):.4f}, lowest {low:.4f}")
    report.summary |= {"embedding_cosine": float(cosine.mean()), "embedding_cosine_lowest": low}


def _embedding(output: Any, batch: dict[str, Tensor]) -> Tensor | None:
    hidden: Tensor | None = getattr(output, "last_hidden_state", None)
    if hidden is None or hidden.shape[:2] != batch["input_ids"].shape:
        return None
    mask = batch.get("attention_mask")
    if mask is None:
        return hidden.float().mean(1)
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1)
