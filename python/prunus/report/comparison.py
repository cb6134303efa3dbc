"""Two models side by side: quality, milliseconds, bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.report import Column, Report
from prunus._tools.running import Batch, as_batches, check_model, evaluating, module_bytes, output_tensors
from prunus._tools.timing import take_turns

__all__ = ["CompareReport", "compare"]

# Enough for a median over noise on a shared machine, short enough to wait for.
SECONDS = 5.0


class CompareReport(Report):
    """What `compare` found; one row per figure, `summary` has the figures by name.

    Summary keys: ms_before, ms_after (median over all batches together), speedup, bytes_before, bytes_after,
    cosine (mean over positions), relative_error (L2), threads, batches.
    """

    title = "Before and after"
    columns = (
        Column("figure", ""),
        Column("before", spec=",.2f"),
        Column("after", spec=",.2f"),
        Column("change"),
    )

    def summary_line(self) -> str:
        s = self.summary
        return (
            f"{s['speedup']:.2f}x the speed with {s['threads']} thread{'s' * (s['threads'] != 1)}, "
            f"{s['bytes_after'] / max(1, s['bytes_before']):.2f}x the bytes, "
            f"outputs at cosine {s['cosine']:.4f} and relative error {s['relative_error']:.3g}."
        )


def compare(before: nn.Module, after: nn.Module, inputs: Any) -> CompareReport:
    """Run two models on the same inputs and report quality, time and size.

    inputs: a tensor, a tuple (positional), a dict or BatchEncoding (keywords), or a list of such batches.
    Both models run in evaluation mode without gradients, taking turns, with torch's current threads; times
    are medians in milliseconds over all batches together. Quality: every floating-point output of `after`
    against the same output of `before`: relative error |a - b| / |b| in the L2 norm over everything, and
    the mean cosine along the last dimension. Positions where an `attention_mask` (batch, tokens) is 0 are
    left out.

    Raises TypeError (not models, inputs of another kind) and ValueError (no comparable outputs, other
    shapes).

    >>> import torch, prunus
    >>> model = torch.nn.Linear(4, 4)
    >>> round(prunus.compare(model, model, torch.ones(2, 4)).summary["cosine"], 6)
    1.0
    """
    check_model(before, "before")
    check_model(after, "after")
    batches = as_batches(inputs, "inputs")
    with evaluating(before, after):
        quality = _Quality()
        for batch in batches:
            quality.add(batch, output_tensors(batch.run(before)), output_tensors(batch.run(after)))
        times = take_turns(
            [lambda: _run_all(before, batches), lambda: _run_all(after, batches)], SECONDS, at_least=5
        )
    sizes = module_bytes(before), module_bytes(after)
    outputs = quality.rows()
    speedup = times[0].ms / times[1].ms
    rows: list[dict[str, Any]] = [
        {
            "figure": "time, ms",
            "before": times[0].ms,
            "after": times[1].ms,
            "change": f"{speedup:.2f}x the speed",
        },
        {"figure": "spread, ms", "before": times[0].spread_ms, "after": times[1].spread_ms},
        {
            "figure": "size, MB",
            "before": sizes[0] / 1e6,
            "after": sizes[1] / 1e6,
            "change": f"{sizes[1] / max(1, sizes[0]):.2f}x the bytes",
        },
    ]
    for name, error, cosine in outputs:
        change = f"cosine {cosine:.4f}, relative error {error:.3g}"
        rows.append({"figure": name, "change": change, "cosine": cosine, "relative_error": error})
    summary = {
        "ms_before": times[0].ms,
        "ms_after": times[1].ms,
        "speedup": speedup,
        "bytes_before": sizes[0],
        "bytes_after": sizes[1],
        "cosine": sum(cosine for _, _, cosine in outputs) / len(outputs),
        "relative_error": max(error for _, error, _ in outputs),
        "threads": torch.get_num_threads(),
        "batches": len(batches),
    }
    return CompareReport(rows, summary)


def _run_all(model: nn.Module, batches: list[Batch]) -> None:
    for batch in batches:
        batch.run(model)


class _Quality:
    """Sums over batches, per output name, in float64."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}  # squared error, squared norm, cosines, positions

    def add(self, batch: Batch, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
        if not before:
            raise ValueError("before: expected a model with floating-point outputs, got none")
        if before.keys() != after.keys():
            raise ValueError(f"after: expected the outputs {sorted(before)}, got {sorted(after)}")
        mask = batch.kwargs.get("attention_mask")
        for name, b in before.items():
            a = after[name]
            if a.shape != b.shape:
                raise ValueError(
                    f"after: expected output {name} of shape {tuple(b.shape)}, got {tuple(a.shape)}"
                )
            a, b = _positions(a, mask).double(), _positions(b, mask).double()
            cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
            # Two zero vectors agree; the library's cosine calls that 0.
            cosine[(a == b).all(-1)] = 1.0
            terms = [(a - b).square().sum(), b.square().sum(), cosine.sum(), torch.tensor(cosine.numel())]
            sums = self.sums.setdefault(name, [0.0] * 4)
            self.sums[name] = [s + float(t) for s, t in zip(sums, terms, strict=True)]

    def rows(self) -> list[tuple[str, float, float]]:
        """(output, relative error, mean cosine)."""
        return [
            (
                name,
                (error / norm) ** 0.5 if norm else (0.0 if error == 0 else float("inf")),
                cosines / max(1.0, count),
            )
            for name, (error, norm, cosines, count) in self.sums.items()
        ]


def _positions(output: Tensor, mask: Any) -> Tensor:
    """Rows (positions, features); without the padding where the mask fits the output."""
    if output.dim() < 2:
        return output.reshape(1, -1)
    if isinstance(mask, Tensor) and mask.dim() == 2 and output.dim() == 3 and output.shape[:2] == mask.shape:
        return output[mask.bool()]
    return output.reshape(-1, output.shape[-1])
