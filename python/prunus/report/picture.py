"""The frontier as a picture: quality against milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunus._tools.files import replacing

__all__ = ["draw"]


def draw(rows: list[dict[str, Any]], path: str | Path) -> None:
    """Write the picture in one step; rows and path: see `EnginesReport`."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = made.subplots()
    timed = [row for row in rows if row["ms"] is not None]
    for i, engine in enumerate(dict.fromkeys(row["engine"] for row in timed)):
        for row in (row for row in timed if row["engine"] == engine):
            after = row["model"] == "after"
            label = engine if not after or not _has(timed, engine, "before") else None
            fill = f"C{i}" if after else "none"
            axes.scatter(row["ms"], row["cosine"], s=36, color=f"C{i}", facecolor=fill, label=label)
    best = sorted((row["ms"], row["cosine"]) for row in timed if row["frontier"])
    axes.step(*zip(*best, strict=True), where="post", color="#7f7f7f", lw=1, ls="--", zorder=0)
    axes.set_xscale("log")
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="ms, hollow: before, filled: after", ylabel="cosine to the model before")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize=8)
    kind = Path(path).suffix.removeprefix(".") or "svg"
    with replacing(path) as temporary:
        made.savefig(temporary, format=kind, dpi=150)


def _has(rows: list[dict[str, Any]], engine: str, model: str) -> bool:
    return any(row["engine"] == engine and row["model"] == model for row in rows)
