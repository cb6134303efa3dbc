"""`prunus demo`: a real encoder, pruned, accelerated and compared, as one table."""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

import prunus._core as _core
from prunus._tools.progress import progress
from prunus._tools.report import Column, Report
from prunus.cli.encoder import Encoder, chunks
from prunus.cli.inputs import add_threads, check_least, threads
from prunus.cli.texts import paragraphs, split_texts
from prunus.patterns import NM, Block, Pattern, Scope, Unstructured

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.accelerate import AccelerateReport

__all__ = ["DemoReport", "add_parser", "parse_patterns"]

SPARSITIES = (0.5, 0.7, 0.8, 0.9)
GOOD_COSINE = 0.95
NEIGHBOURS = 10
QUALITY_TOKENS = 128
SECONDS = 15.0


class DemoReport(Report):
    """The balance of `prunus demo`: one row for dense and one per pattern.

    Row: label, ms (median per batch), spread_ms, linear_speedup, speedup (whole model, against dense in the
    same rounds), converted (Linear layers that run sparse), megabytes (all parameters and buffers), cosine
    (mean, to the dense embeddings), overlap (of the ten nearest neighbours), layers (rows of the
    `AccelerateReport`), linear (its summary).
    """

    columns = (
        Column("label", "zeros"),
        Column("ms", "ms per\nbatch", ".1f"),
        Column("spread_ms", "+-", ".1f"),
        Column("linear_speedup", "Linear\nlayers", ".2f", "x"),
        Column("speedup", "whole\nmodel", ".2f", "x"),
        Column("layers_sparse", "run\nsparse"),
        Column("megabytes", "MB", ".1f"),
        Column("cosine", spec=".3f"),
        Column("overlap", f"same\ntop-{NEIGHBOURS}", ".0%"),
    )

    def summary_line(self) -> str:
        """What the table says, in one sentence."""
        dense, *pruned = self.rows
        good = [row for row in pruned if row["cosine"] >= GOOD_COSINE and row["speedup"] > 1]
        if good:
            best = max(good, key=lambda row: float(row["speedup"]))
            return (
                f"Best balance with a mean cosine of at least {GOOD_COSINE}: {best['label']}, "
                f"{best['speedup']:.2f}x as fast and {dense['megabytes'] / best['megabytes']:.1f}x smaller, "
                f"cosine {best['cosine']:.3f}."
            )
        mildest = max(pruned, key=lambda row: float(row["cosine"]))
        return (
            f"No row keeps a mean cosine of {GOOD_COSINE}: one-shot magnitude pruning without any training "
            f"costs too much here. The mildest, {mildest['label']}, is {mildest['speedup']:.2f}x as fast at "
            f"cosine {mildest['cosine']:.3f}. Which weights are zero moves the last two columns, not speed."
        )


def add_parser(commands: Any) -> None:
    """Add the `demo` command to the command line."""
    parser = commands.add_parser(
        "demo",
        help="prune and accelerate a real sentence encoder, and show what it gains and costs",
        description="Prunes all-MiniLM-L6-v2 by magnitude, converts the Linear layers that are measured "
        "faster, and compares speed, size and embeddings with the dense model. Everything is offline.",
    )
    parser.add_argument(
        "--sparsity", type=float, nargs="+", metavar="S", help="zeros, 0..1 (0.5 0.7 0.8 0.9)"
    )
    parser.add_argument(
        "--pattern", default="unstructured", help="unstructured, N:M (2:4) or blocks RxC (4x4)"
    )
    parser.add_argument(
        "--scope", choices=get_args(Scope), default="model", help="what shares one budget of zeros (model)"
    )
    add_threads(parser)
    parser.add_argument("--batch", type=int, default=8, help="texts per timed batch (8)")
    parser.add_argument("--length", type=int, default=64, help="tokens per timed text (64)")
    parser.add_argument("--texts", type=int, default=256, help="held-out texts for the quality columns (256)")
    parser.add_argument(
        "--detail", action="store_true", help="also one table per row with every Linear layer"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, details included")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo and print its table, or JSON."""
    from rich.console import Console

    patterns = parse_patterns(options.pattern, options.sparsity, options.scope)
    _check_counts(options)
    with Console(stderr=True).status("loading the encoder and the texts"):
        encoder = Encoder()
        data = _Data.make(encoder, options)
    with threads(options.threads):
        report = measure(encoder, patterns, data)
    if options.json:
        print(report.to_json())
        return 0
    console = Console()
    # A pipe or a file gets the whole width; a terminal folds what is wider.
    show = console.print if console.is_terminal else print
    if options.detail:
        from prunus.accelerate import AccelerateReport

        for row in report.rows[1:]:
            title = f"{row['label']}: every Linear layer"
            show(AccelerateReport(row["layers"], row["linear"], title=title))
            show()
    show(report)
    return 0


def parse_patterns(
    pattern: str, sparsities: Sequence[float] | None = None, scope: str = "model"
) -> list[tuple[str, Pattern]]:
    """Rows of the table: (label, pattern). Raises ValueError for a text that is no pattern.

    >>> parse_patterns("2:4")
    [('2:4', NM(n=2, m=4))]
    """
    nm, block = re.fullmatch(r"(\d+):(\d+)", pattern), re.fullmatch(r"(\d+)x(\d+)", pattern)
    if nm:
        if sparsities:
            raise ValueError(
                f"--sparsity: expected none with the pattern {pattern}, which fixes it, got {sparsities}"
            )
        return [(pattern, NM(int(nm[1]), int(nm[2])))]
    given = sparsities or SPARSITIES
    if block:
        shape = (int(block[1]), int(block[2]))
        return [(f"{s * 100:g}% {pattern}", Block(shape, s)) for s in given]
    if pattern != "unstructured":
        raise ValueError(
            f"--pattern: expected unstructured, N:M such as 2:4, or RxC such as 4x4, got {pattern!r}"
        )
    return [(f"{s * 100:g}%", Unstructured(s, scope=cast(Scope, scope))) for s in given]


@dataclass
class _Data:
    """Texts as tokens: `timed` for speed (8 x 64 full tokens), `held_out` for quality; no text is in both."""

    timed: dict[str, Tensor]
    held_out: list[dict[str, Tensor]]

    @classmethod
    def make(cls, encoder: Encoder, options: argparse.Namespace) -> _Data:
        need = options.texts + options.batch * options.length // 8
        timing, quality = split_texts(paragraphs(2 * need + 200))
        if len(quality) < options.texts:
            raise ValueError(
                f"--texts: expected at most {len(quality)} with the installed packages, got {options.texts}"
            )
        held_out = [encoder.tokens(part, QUALITY_TOKENS) for part in chunks(quality[: options.texts], 32)]
        return cls(encoder.full_batch(timing, options.batch, options.length), held_out)


def measure(encoder: Encoder, patterns: list[tuple[str, Pattern]], data: _Data) -> DemoReport:
    """Prune and accelerate one copy of the model per pattern, then measure all of them together."""
    import torch

    from prunus._tools.running import evaluating, module_bytes
    from prunus._tools.timing import take_turns
    from prunus.accelerate import accelerate_
    from prunus.methods import Magnitude
    from prunus.prune import prune_

    models, reports = [encoder.model], []
    for _, pattern in progress(patterns, "pruning and converting"):
        model = copy.deepcopy(encoder.model)
        # Of the plain choices this keeps most of the embeddings: cosine 0.76 at 50 %, against 0.70 per layer.
        prune_(model, pattern, method=Magnitude(normalize="row"))
        reports.append(accelerate_(model, data.timed))
        models.append(model)
    with evaluating(*models):
        calls = [partial(_forward, model, data.timed) for model in models]
        times = take_turns(calls, SECONDS, at_least=7, at_most=40, label="timing the models in turn")
    reference = encoder.embed(encoder.model, data.held_out, "embedding")
    rows = [_row("dense", None, (1.0, 1.0))]
    for (label, _), model, report in zip(patterns, models[1:], reports, strict=True):
        rows.append(
            _row(label, report, _quality(reference, encoder.embed(model, data.held_out, "embedding")))
        )
    for row, model, time in zip(rows, models, times, strict=True):
        row |= {"ms": time.ms, "spread_ms": time.spread_ms, "speedup": times[0].ms / time.ms}
        row["megabytes"] = module_bytes(model) / 1e6
    batch, length = data.timed["input_ids"].shape
    count = torch.get_num_threads()
    title = f"all-MiniLM-L6-v2, {batch} x {length} tokens, {count} thread{'s' * (count != 1)}, "
    summary = {
        "batch": batch,
        "length": length,
        "threads": count,
        "isa": _core.active_isa(),
        "held_out_texts": len(reference),
        "rounds": len(times[0].seconds),
    }
    return DemoReport(
        rows, summary, title=title + f"{_core.active_isa()}; median of {summary['rounds']} rounds in turn"
    )


def _forward(model: nn.Module, batch: dict[str, Tensor]) -> None:
    model(**batch)


def _row(label: str, report: AccelerateReport | None, quality: tuple[float, float]) -> dict[str, Any]:
    row = {"label": label, "cosine": quality[0], "overlap": quality[1]}
    if report is None:
        return row | {"linear_speedup": 1.0, "layers_sparse": "-"}
    linear = report.summary
    return row | {
        "linear_speedup": linear["linear_speedup"],
        "converted": linear["converted"],
        "layers_sparse": f"{linear['converted']}/{linear['layers']}",
        "linear": linear,
        "layers": report.rows,
    }


def _quality(reference: Tensor, got: Tensor) -> tuple[float, float]:
    """(mean cosine, share of common nearest neighbours) of two sets of unit embeddings (texts, features)."""
    both = _nearest(reference) & _nearest(got)
    return float((reference * got).sum(1).mean()), float(both.sum()) / (NEIGHBOURS * len(reference))


def _nearest(embeddings: Tensor) -> Tensor:
    """mask (texts, texts): the nearest others of each text, by cosine."""
    from prunus.masks import select

    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(float("-inf"))
    return select(similarity, Unstructured(1 - NEIGHBOURS / len(similarity), scope="row"))


def _check_counts(options: argparse.Namespace) -> None:
    least = {"threads": 1, "batch": 1, "length": 4, "texts": NEIGHBOURS + 1}
    for name, low in least.items():
        check_least(name, getattr(options, name), low)
    if options.length > 512:
        raise ValueError(f"--length: expected at most 512, the model's limit, got {options.length}")
