"""What `prune_` did and did not do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from prunus._tools.report import Column, Report

__all__ = ["PruneReport"]


class PruneReport(Report):
    """One row per weight: pruned with its zeros counted in the model, or skipped and why.

    Summary: method, pattern, weights (considered), zeros, sparsity (of the considered weights), reached (the
    share that those are of all weights of the model), layers, skipped (rows), seconds.

    >>> row = {"name": "fc", "shape": (2, 2), "weights": 4, "zeros": 2, "sparsity": 0.5, "status": "pruned"}
    >>> PruneReport([row], {"sparsity": 0.5, "layers": 1, "skipped": 0}).pruned
    ['fc']
    """

    title = "Pruned"
    columns: Sequence[Column] = (
        Column("name", "layer"),
        Column("kind"),
        Column("shape"),
        Column("weights", spec=","),
        Column("was", "zeros before", spec=".1%"),
        Column("sparsity", spec=".1%"),
        Column("status"),
        Column("note"),
    )
    dim_when: ClassVar[tuple[str, Any] | None] = ("status", "skipped")

    @property
    def pruned(self) -> list[str]:
        """Names of the layers that were pruned."""
        return [row["name"] for row in self.rows if row["status"] == "pruned"]

    @property
    def skipped(self) -> dict[str, str]:
        """Name -> reason for every weight that was left alone."""
        return {row["name"]: row["note"] for row in self.rows if row["status"] == "skipped"}

    def summary_line(self) -> str:
        """One sentence with the totals."""
        s = self.summary
        return (
            f"{s['layers']} layers, {s['zeros']:,} of {s['weights']:,} weights zero ({s['sparsity']:.2%}), "
            f"which are {s['reached']:.1%} of all weights; "
            f"{s['skipped']} weights skipped; {s['method']}, {s['pattern']}, {s['seconds']:.1f} s"
        )
