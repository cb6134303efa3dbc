"""Quality records as tables."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from statistics import mean, pstdev
from typing import Any

from bench.records import Record
from bench.tables import Table, percent

FIGURES = {
    "minilm": {"cosine": "cosine to the dense embeddings", "spearman": "rank correlation of all pairs",
               "overlap": "same top-10 neighbours"},
    "gpt": {"perplexity": "perplexity of held-out text"},
}  # fmt: skip
TITLES = {"minilm": "all-MiniLM-L6-v2", "gpt": "GPT 4 x 256"}


def quality_tables(records: list[Record]) -> list[Table]:
    """Per subject and figure: a row per method and pattern; then times, balance, speed."""
    tables = []
    for part, figures in FIGURES.items():
        mine = [r for r in records if r.get("part") == part]
        tables += [_by_sparsity(mine, figure, f"{TITLES[part]}: {text}") for figure, text in figures.items()]
        tables += [_variation(mine, TITLES[part]), _times(mine, part), _balance(mine, part)]
    return [table for table in [*tables, _speed(records)] if table.rows]


def value(figure: str, number: float) -> str:
    if figure == "overlap":
        return f"{100 * number:.0f} %"
    if figure == "perplexity":
        return f"{number:.1f}" if number < 1e4 else f"{number:.0e}"
    return f"{number:.3f}"


def label(r: Record) -> str:
    """Method and pattern as one name."""
    if r["pattern"] in ("neurons", "heads", "layers"):
        return f"{r['pattern']} ({r['method']})"
    return f"{r['method']}, {r['pattern']}"


def _of(records: Iterable[Record], kind: str) -> list[Record]:
    return [r for r in records if r["record"] == kind]


def _by_sparsity(records: list[Record], figure: str, title: str) -> Table:
    """Mean over the seeds, with the standard deviation where there are several."""
    cells: dict[tuple[str, float], list[float]] = defaultdict(list)
    for r in _of(records, "quality"):
        cells[label(r), r["sparsity"]].append(r[figure])
    sparsities = sorted({s for _, s in cells})
    variation = {r["seed"]: r["cv"] for r in _of(records, "quality-variation")}
    seeds = f"; input cv {mean(variation.values()):.2f}" if variation else ""
    table = Table(f"{title} (mean ± sd over seeds{seeds})", ["method, pattern", *map(percent, sparsities)])
    for name in dict.fromkeys(name for name, _ in cells):
        row = []
        for s in sparsities:
            found = cells.get((name, s), [])
            spread = f" ± {pstdev(found):.2g}" if len(found) > 1 else ""
            row.append(value(figure, mean(found)) + spread if found else "")
        table.rows.append([name, *row])
    return table


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
    table = Table(
        f"{TITLES[part]}: quality and measured time",
        ["method, pattern", "sparsity", "gone", "run sparse", "dense ms", "ms", "speed", *figures],
    )
    for r in [*_of(records, "quality-time"), *_of(records, "quality-balance")]:
        numbers = [percent(r["sparsity"]), percent(r["gone"]), str(r["converted"])]
        numbers += [f"{r['dense_ms']:.1f}", f"{r['ms']:.1f}", f"{r['speedup']:.2f}x"]
        table.rows.append([label(r), *numbers, *(value(f, r[f]) for f in figures)])
    return table


def uniform_at(records: list[Record], speedup: float, figure: str) -> float | None:
    """What uniform Wanda has at that speed, on the line between its two neighbours; None outside."""
    line = sorted(
        (r["speedup"], r[figure])
        for r in _of(records, "quality-time")
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
    for r in _of(records, "quality-balance"):
        other = uniform_at(records, r["speedup"], figure)
        speeds = [f"{r[name]:.2f}x" for name in ("predicted_speedup", "measured_speedup")]
        speeds.append(f"{100 * r['off']:+.1f} %")
        quality = [value(figure, r[figure]), "" if other is None else value(figure, other)]
        table.rows.append([r["pattern"], *speeds, percent(r["gone"]), *quality])
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
