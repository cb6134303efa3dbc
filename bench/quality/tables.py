"""Quality records as tables."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from statistics import mean
from typing import Any

from bench.quality.grid import PATTERNS, STRUCTURES
from bench.records import Record
from bench.tables import Table, percent

FIGURES = {
    "minilm": {"cosine": "cosine to the dense embeddings", "spearman": "rank correlation of all pairs",
               "overlap": "same top-10 neighbours, %"},
    "gpt": {"perplexity": "perplexity of held-out text"},
}  # fmt: skip
TITLES = {"minilm": "all-MiniLM-L6-v2", "gpt": "GPT 4 x 256"}


def quality_tables(records: list[Record]) -> list[Table]:
    """Per subject and figure: a row per method and pattern; then times, balance, speed."""
    tables = []
    for part, figures in FIGURES.items():
        mine = [r for r in records if r.get("part") == part]
        tables += [_by_sparsity(mine, figure, f"{TITLES[part]}: {text}") for figure, text in figures.items()]
        tables += [_structures(mine, part), _variation(mine, TITLES[part])]
        tables += [_times(mine, part), _balance(mine, part)]
    return [table for table in [*tables, _speed(records)] if table.rows]


def value(figure: str, number: float) -> str:
    if figure == "overlap":
        return f"{100 * number:.0f}"
    if figure == "perplexity":
        return f"{number:.1f}" if number < 1e4 else f"{number:.0e}"
    return f"{number:.3f}"


def label(r: Record) -> str:
    """Method and pattern as one name."""
    if r["pattern"] in STRUCTURES:
        return f"{r['pattern']} ({r['method']})"
    return f"{r['method']}, {r['pattern']}"


def _of(records: Iterable[Record], kind: str) -> list[Record]:
    return [r for r in records if r["record"] == kind]


def _by_sparsity(records: list[Record], figure: str, title: str) -> Table:
    """The dense model, then a row per method and pattern: mean over the seeds, and least and most."""
    cells: dict[str, dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for r in _of(records, "quality"):
        if r["pattern"] not in STRUCTURES:
            cells[label(r)][r["sparsity"]].append(r)
    sparsities = sorted({s for levels in cells.values() for s in levels})
    variation = {r["seed"]: r for r in _of(records, "quality-variation")}
    columns = ["method, pattern", "input cv", "0 %", *map(percent, sparsities)]
    table = Table(f"{title}; mean over seeds (least..most)", columns)
    if not cells:
        return table
    if variation:
        dense = value(figure, next(iter(variation.values()))["dense"][figure])
        table.rows.append(["dense", _cv(variation.values()), dense, *[""] * len(sparsities)])
    for name in sorted(cells, key=_order):
        levels = cells[name]
        seeds = {r["seed"] for found in levels.values() for r in found}
        cv = _cv(variation[seed] for seed in sorted(seeds & variation.keys()))
        row = [several(figure, levels[s]) if s in levels else "" for s in sparsities]
        table.rows.append([name, cv, "", *row])
    return table


def _structures(records: list[Record], part: str) -> Table:
    """What shrink_ made, with all figures."""
    cells: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for r in _of(records, "quality"):
        if r["pattern"] in STRUCTURES:
            cells[label(r), r["sparsity"]].append(r)
    columns = ["structure (compensation)", "asked for", "gone", *FIGURES[part]]
    table = Table(f"{TITLES[part]}: neurons, heads and blocks; mean over seeds (least..most)", columns)
    for (name, sparsity), found in sorted(cells.items()):
        gone = percent(mean(r["gone"] for r in found))
        figures = [several(figure, found) for figure in FIGURES[part]]
        table.rows.append([name, percent(sparsity), gone, *figures])
    return table


def several(figure: str, records: list[Record]) -> str:
    """Mean over the seeds, with the least and the most where there are several."""
    found = [r[figure] for r in records]
    if len(found) == 1:
        return value(figure, found[0])
    middle, least, most = (value(figure, f(found)) for f in (mean, min, max))
    return middle if least == most else f"{middle} ({least}..{most})"


def _cv(found: Iterable[Record]) -> str:
    """Variation of the input norms, mean over the calibrations of these seeds."""
    every = [r["cv"] for r in found]
    return f"{mean(every):.2f}" if every else ""


def _order(name: str) -> tuple[int, str]:
    """Rows by pattern, in the order of the grid; allocations last."""
    pattern = name.rpartition(", ")[2]
    return (PATTERNS.index(pattern) if pattern in PATTERNS else len(PATTERNS)), pattern


def _variation(records: list[Record], title: str) -> Table:
    """Coefficient of variation of the input norms, by kind of layer."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for r in _of(records, "quality-variation"):
        for name, cv in r["layers"].items():
            kinds[".".join(part for part in name.split(".") if not part.isdigit())].append(cv)
    table = Table(f"{title}: variation (sd / mean) of the input norms", ["layer", "mean", "least", "most"])
    for kind, found in kinds.items():
        table.rows.append([kind, *(f"{f(found):.2f}" for f in (mean, min, max))])
    return table


def _times(records: list[Record], part: str) -> Table:
    figures = FIGURES[part]
    every = timed(records)
    how = f" ({every[-1]['clock']} clock, {every[-1]['threads']} thread(s))" if every else ""
    table = Table(
        f"{TITLES[part]}: quality and measured time{how}",
        ["method, pattern", "sparsity", "gone", "run sparse", "dense ms", "ms", "speed", *figures],
    )
    for r in every:
        numbers = [percent(r["sparsity"]), percent(r["gone"]), str(r["converted"])]
        numbers += [f"{r['dense_ms']:.1f}", f"{r['ms']:.1f}", f"{r['speedup']:.2f}x"]
        table.rows.append([label(r), *numbers, *(value(f, r[f]) for f in figures)])
    return table


def timed(records: list[Record]) -> list[Record]:
    """What was timed in the way (clock, threads) of the last that was: other times do not compare with it."""
    found = [*_of(records, "quality-time"), *_of(records, "quality-balance")]
    found = [r for r in found if "out_of_reach" not in r]
    ways = [(r.get("clock"), r.get("threads")) for r in records if r["record"].startswith("quality-time")]
    return [r for r in found if (r.get("clock"), r.get("threads")) == ways[-1]] if ways else found


def uniform_at(records: list[Record], speedup: float, figure: str) -> float | None:
    """What uniform Wanda has at that speed, on the line between its two neighbours; None outside."""
    line = sorted(
        (r["speedup"], r[figure])
        for r in _of(timed(records), "quality-time")
        if (r["method"], r["pattern"]) == ("wanda", "row")
    )
    for (v0, q0), (v1, q1) in pairwise(line):
        if v0 <= speedup <= v1:
            return float(q0 + (q1 - q0) * (speedup - v0) / max(v1 - v0, 1e-9))
    return None


def _balance(records: list[Record], part: str) -> Table:
    figure = next(iter(FIGURES[part]))
    title = f"{TITLES[part]}: balance_ (Wanda) and uniform Wanda at the same measured speed"
    table = Table(title, ["", "predicted", "measured", "off", "zeros", figure, f"uniform {figure}"])
    for r in _of(timed(records), "quality-balance"):
        other = uniform_at(records, r["speedup"], figure)
        speeds = [f"{r[name]:.2f}x" for name in ("predicted_speedup", "measured_speedup")]
        speeds.append(f"{100 * r['off']:+.1f} %")
        quality = [value(figure, r[figure]), "" if other is None else value(figure, other)]
        table.rows.append([r["pattern"], *speeds, percent(r["gone"]), *quality])
    for r in _of(records, "quality-balance"):
        if "out_of_reach" in r:
            table.rows.append([r["pattern"], r["out_of_reach"], *[""] * 5])
    return table


def _speed(records: list[Record]) -> Table:
    found = _of(records, "quality-speed")
    table = Table(
        "Pruning speed, BERT-base blocks", ["method", "blocks", "tokens", "threads", "s", "forwards"]
    )
    for r in found:
        numbers: list[Any] = [r["blocks"], r["tokens"], r["threads"], f"{r['seconds']:.1f}"]
        table.rows.append([r["method"], *map(str, numbers), f"{r['seconds'] / r['forward_seconds']:.1f}"])
    return table


Line = tuple[str, list[Record]]


def lines(records: Iterable[Record], order: Callable[[Record], float]) -> list[Line]:
    """Records by method and pattern, each sorted for a picture."""
    found: dict[str, list[Record]] = defaultdict(list)
    for r in records:
        found[label(r)].append(r)
    return [(name, sorted(rows, key=order)) for name, rows in found.items()]
