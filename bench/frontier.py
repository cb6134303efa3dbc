"""The picture of `bench models`: quality against speed, every engine, dense and pruned."""

from pathlib import Path
from typing import Any

from bench.figures import figure, finish
from bench.records import Record

# Okabe and Ito's, as in the pictures of quality.
COLOURS = {"torch": "#000000", "ONNX Runtime": "#e69f00", "OpenVINO": "#0072b2", "prunus": "#009e73"}


def draw(records: list[Record], folder: Path) -> list[Path]:
    """One picture a batch; recovered models are filled, dense ones hollow, and a line joins the frontier."""
    groups: dict[str, list[Record]] = {}
    for r in (r for r in records if r["record"] == "model"):
        groups.setdefault(f"{r['texts']}x{r['length']}", []).append(r)
    return [_picture(records, group, folder / f"frontier-{batch}.svg") for batch, group in groups.items()]


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (speed, quality) that no other beats in both, slowest first."""
    best: list[tuple[float, float]] = []
    for speed, quality in sorted(points, reverse=True):
        if not best or quality > best[-1][1]:
            best.append((speed, quality))
    return best[::-1]


def _picture(records: list[Record], group: list[Record], path: Path) -> Path:
    first = group[0]
    title = (
        f"{first['model']}, {first['texts']} texts of {first['length']} tokens, {first['threads']} threads"
    )
    fig, ax = figure(
        title, f"speed over {first['peer']}, faster to the right", "cosine to the dense embeddings"
    )
    fig.set_size_inches(7.6, 4.8)
    # What rounding alone costs is no difference of quality.
    points = [(first["min_us"] / r["min_us"], round(r["cosine"], 3)) for r in group]
    best = frontier(points)
    ax.step(*zip(*best, strict=True), where="pre", color="#7f7f7f", lw=1, ls="--", zorder=0)
    middle = (min(speed for speed, _ in points) + best[-1][0]) / 2
    for r, point in zip(group, points, strict=True):
        _point(ax, r["peer"], point, middle if point in best else None)
    handles = {h.get_label(): h for h in ax.collections if not h.get_label().startswith("_")}
    ax.legend(list(handles.values()), list(handles), frameon=False, loc="lower left")
    return finish(fig, records, path)


def _point(ax: Any, peer: str, point: tuple[float, float], middle: float | None) -> None:
    """middle: of the axis, where its name stands beside it; None: without a name."""
    engine = next((name for name in COLOURS if peer.startswith(name)), "other")
    colour = COLOURS.get(engine, "#7f7f7f")
    dense = "," not in peer or peer.endswith("no zeros")
    ax.scatter(*point, s=36, color=colour, facecolor="none" if dense else colour, label=engine)
    if middle is not None:
        right = point[0] > middle
        place = {"xytext": (-6 if right else 6, -12), "ha": "right" if right else "left"}
        ax.annotate(peer, point, **place, textcoords="offset points", fontsize=7, color=colour)
