"""What `recover_` did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prunus._tools.report import Column, Report

__all__ = ["RecoverReport"]


class RecoverReport(Report):
    """One row per method; `curve` has one per measurement on held-out batches.

    Row: method, minutes, steps, tokens (real ones trained on), before and after (the figure named by
    summary["figure"]), note. Curve: method, minutes (since the beginning), step, tokens, loss (mean since the
    measurement before), and the figures. Summary: figure, before, after, minutes, tokens, reached (the share
    of all weights that recovery may change), notes, and every figure as before_NAME and after_NAME.

    >>> RecoverReport([{"method": "Refit"}], {"figure": "cosine", "before": 0.5, "after": 0.9}).summary_line()
    'cosine 0.5000 before, 0.9000 after'
    """

    title = "Recovered"
    columns = (
        Column("method"),
        Column("minutes", spec=".1f"),
        Column("steps", spec=","),
        Column("tokens", spec=","),
        Column("before", spec=".4f"),
        Column("after", spec=".4f"),
        Column("note"),
    )

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        summary: Mapping[str, Any],
        curve: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(rows, summary)
        self.curve = [dict(row) for row in curve]

    def summary_line(self) -> str:
        """One sentence with the quality before and after, and what was noted."""
        s = self.summary
        line = f"{s['figure']} {s['before']:.4f} before, {s['after']:.4f} after"
        if s.get("tokens"):
            line += f"; {s['tokens']:,} tokens, {s['minutes']:.1f} minutes"
        if s.get("reached"):
            line += f"; {s['reached']:.1%} of all weights may change"
        return "; ".join([line, *s.get("notes", ())])

    def to_dict(self) -> dict[str, Any]:
        """As `Report.to_dict`, with the curve."""
        whole = Report(self.curve).to_dict()["rows"]
        return super().to_dict() | {"curve": whole}

    def plot(self, path: str | Path) -> None:
        """The quality over the minutes as a picture; the ending of `path` says the kind (.svg, .png).

        Raises ValueError when there is nothing to draw, ImportError without matplotlib.
        """
        from prunus.recover.curve import draw

        draw(self.curve, self.summary["figure"], self.summary["before"], path)
