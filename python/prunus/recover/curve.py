"""The quality over time as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prunus._tools.files import replacing

__all__ = ["draw"]


def draw(curve: Iterable[Mapping[str, Any]], figure: str, before: float, path: str | Path) -> None:
    """Write the picture of one figure over the minutes in one step; see `RecoverReport.plot`."""
    from matplotlib.figure import Figure

    points = [(row["minutes"], row[figure], row["method"]) for row in curve]
    if not points:
        raise ValueError("report: expected at least one measurement to draw, got none")
    made = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = made.subplots()
    for method in dict.fromkeys(name for _, _, name in points):
        mine = [(x, y) for x, y, name in points if name == method]
        axes.plot(*zip(*mine, strict=True), marker="o", ms=3.5, lw=1.3, label=method)
    axes.axhline(before, color="#7f7f7f", lw=1, ls="--", label="before")
    axes.set_xlabel("minutes")
    axes.set_ylabel(f"{figure} on held-out batches")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    kind = Path(path).suffix.removeprefix(".") or "svg"
    with replacing(path) as temporary:
        made.savefig(temporary, format=kind, dpi=150)
