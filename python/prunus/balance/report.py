"""What `balance_` tells."""

from __future__ import annotations

from typing import Any, ClassVar

from prunus._tools.report import Column, Report
from prunus.accelerate import AccelerateReport
from prunus.prune import PruneReport

__all__ = ["BalanceReport"]


class BalanceReport(Report):
    """What `balance_` chose; one row per layer, summary for the model.

    Row: name, shape (n, k), sparsity, error (relative, of its outputs), dense_ms, predicted_ms (of the
    table), runs. Summary: dense_ms and measured_ms (taking turns at the end, all example inputs together;
    measured_ms is dense_ms times the median of the ratios of neighbouring turns), spread (quartile range of
    those ratios over their median), target_ms, predicted_ms (of the trial of the chosen levels, before
    pruning), predicted_speedup, measured_speedup, off (measured over predicted time, minus 1, both as shares
    of the dense time of their moment), error (relative, L2, of the model's outputs for the example inputs
    with the pruned weights), sparsity and reached (as in `PruneReport`), layers, converted, threads, seconds
    (of the whole call). `pruned` and `accelerated`: the
    reports of the two verbs.
    """

    title = "Balance: sparsity by layer for the time asked for"
    columns = (
        Column("name", "layer"),
        Column("shape", "n x k"),
        Column("sparsity", spec=".1%"),
        Column("error", "output error", ".4f"),
        Column("dense_ms", "dense ms", ".3f"),
        Column("predicted_ms", "predicted ms", ".3f"),
        Column("runs"),
    )
    dim_when: ClassVar[tuple[str, Any] | None] = ("runs", "dense")
    pruned: PruneReport
    accelerated: AccelerateReport

    def summary_line(self) -> str:
        s = self.summary
        threads = f"{s['threads']} thread{'s' * (s['threads'] != 1)}"
        return (
            f"{s['measured_speedup']:.2f}x measured, {s['predicted_speedup']:.2f}x predicted; "
            f"{s['dense_ms']:.2f} ms -> {s['measured_ms']:.2f} ms (predicted {s['predicted_ms']:.2f} ms, "
            f"off by {s['off']:+.1%}, spread {s['spread']:.1%}); outputs changed by {s['error']:.1%}; "
            f"{s['sparsity']:.1%} of {s['layers']} layers zero, which are {s['reached']:.1%} of all weights; "
            f"{threads}; took {s['seconds']:.0f} s."
        )
