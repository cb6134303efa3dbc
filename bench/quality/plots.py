"""Pictures: quality against measured milliseconds, and against what is gone."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.figures import figure, finish
from bench.quality.grid import METHODS, STRUCTURES
from bench.quality.tables import FIGURES, TITLES, Line, lines, timed
from bench.records import Record

# Okabe and Ito's, told apart by colour-blind readers: colour and marker by method, dashes by pattern.
LOOKS = {
    "magnitude": ("#0072b2", "o"),
    "magnitude/column": ("#56b4e9", "P"),
    "random": ("#7f7f7f", "x"),
    "wanda": ("#d55e00", "s"),
    "sparsegpt": ("#cc79a7", "^"),
    "taylor": ("#e69f00", "v"),
    "neurons": ("#009e73", "D"),
    "heads": ("#000000", "*"),
    "layers": ("#7f7f7f", "X"),
}
DASHES = {"row": "-", "(weight)": "-", "(bias)": "--", "balance_": "--", "4x4": "--", "16x1": "-."}
Place = Callable[[Record], float]


def draw(records: list[Record], folder: Path) -> list[Path]:
    """Every picture that the records are enough for."""
    paths = []
    for part, figures in FIGURES.items():
        mine, goal = [r for r in records if r.get("part") == part], next(iter(figures))
        times = timed(mine)
        if times:
            base = median(r["dense_ms"] for r in times)
            clock = "processor ms" if times[0]["clock"] == "cpu" else "ms"
            text = f"{clock} per batch, {times[0]['threads']} thread(s), faster to the right"
            fig, ax = _axes(part, goal, text)
            _draw(ax, _lines(times, goal), lambda r, base=base: base / r["speedup"], goal)
            _dense(ax, base, mine, goal)
            ax.invert_xaxis()
            paths.append(finish(fig, records, folder / f"quality-{part}-ms.svg"))
        rows = [r for r in mine if r["record"] == "quality" and _in_picture(r)]
        if rows:
            fig, ax = _axes(part, goal, "share of the weights of the blocks that is gone")
            _draw(ax, _lines(rows, goal), lambda r: r["gone"], goal)
            _dense(ax, 0.0, mine, goal)
            ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
            paths.append(finish(fig, records, folder / f"quality-{part}-sparsity.svg"))
    return paths


def _in_picture(r: Record) -> bool:
    """One line per method within rows, the other patterns for one method, and structure: the tables have the
    rest."""
    plain = r["method"] in METHODS if r["pattern"] == "row" else r["method"] == "sparsegpt"
    return (plain and r["pattern"] != "tensor") or (r["pattern"] in STRUCTURES and r["method"] != "none")


def _axes(part: str, goal: str, x: str) -> tuple[Any, Any]:
    fig, ax = figure(f"{TITLES[part]}: {FIGURES[part][goal]}", x, FIGURES[part][goal])
    fig.set_size_inches(7.6, 4.8)
    if goal == "perplexity":
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    return fig, ax


def _lines(records: list[Record], goal: str) -> list[Line]:
    """By method and pattern, the mean over the seeds; all levels of balance_ are one line."""
    named = [r | {"pattern": "balance_"} if r["record"] == "quality-balance" else r for r in records]
    found = []
    for name, rows in lines(named, lambda r: float(r["gone"])):
        levels = {r["sparsity"]: [q for q in rows if q["sparsity"] == r["sparsity"]] for r in rows}
        found.append((name, [same[0] | {goal: mean(r[goal] for r in same)} for same in levels.values()]))
    return found


def _draw(ax: Any, found: list[Line], place: Place, goal: str) -> None:
    ends = []
    for name, rows in found:
        first, last = name.replace(",", "").split(" ", 1)
        colour, marker = LOOKS.get(first, ("#333333", "."))
        style = DASHES.get(last, ":")
        x, y = [place(r) for r in rows], [r[goal] for r in rows]
        ax.plot(x, y, style, marker=marker, ms=4, lw=1.2, color=colour)
        ends.append((x[-1], y[-1], name, colour))
    _label(ax, ends)


def _label(ax: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Names in a column at the right, in the order of the ends of their lines and apart from each other."""
    to_axes = ax.transData + ax.transAxes.inverted()
    ax.autoscale_view()
    ends = sorted(ends, key=lambda end: end[1])
    heights = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ends]
    step = 0.05
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    over = max(0.0, heights[-1] - 1.0) if heights else 0.0
    for height, (x, y, name, colour) in zip(heights, ends, strict=True):
        arrow = {"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6}
        place = {"textcoords": ax.transAxes, "fontsize": 7.5, "va": "center", "color": colour}
        ax.annotate(name, (x, y), (1.03, height - over), arrowprops=arrow, **place)


def _dense(ax: Any, x: float, records: list[Record], goal: str) -> None:
    """The model that nothing was taken from."""
    perfect = next((r["dense"] for r in records if r["record"] == "quality-variation"), None)
    if perfect is not None:
        ax.plot([x], [perfect[goal]], "k*", ms=9)
        ax.annotate("dense", (x, perfect[goal]), (4, -10), textcoords="offset points", fontsize=7.5)
