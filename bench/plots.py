"""Result records as pictures: SVG with text kept as text, so they are small and can be committed."""

from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from bench.figures import figure, finish
from bench.frontier import draw as draw_frontier
from bench.quality.plots import draw as draw_quality
from bench.records import Record, best_dense, linear_groups, of_suite, read, roofline
from bench.tables import group_title

COLOURS = ("#0b6e4f", "#c1440e", "#3b5ba5", "#8d6a9f", "#b08900", "#5f6b6d", "#d1495b", "#2e86ab")


def save(fig: Any, ax: Any, records: list[Record], path: Path) -> Path:
    ax.legend(frameon=False, fontsize=8)
    return finish(fig, records, path)


def lines_by_peer(group: list[Record]) -> dict[str, list[Record]]:
    peers = dict.fromkeys(r["peer"] for r in group if r["pattern"] != "dense")
    return {
        p: sorted((r for r in group if r["peer"] == p), key=lambda r: float(r["sparsity"])) for p in peers
    }


def break_even(points: list[tuple[float, float]]) -> float | None:
    """Sparsity at which the line of (sparsity, speed) crosses 1, from below; None when it does not."""
    for (s0, v0), (s1, v1) in pairwise(points):
        if v0 < 1.0 <= v1:
            return s0 + (1.0 - v0) / (v1 - v0) * (s1 - s0)
    return None


def speed_against_sparsity(records: list[Record], group: list[Record], path: Path) -> Path | None:
    base, lines = best_dense(group), {p: r for p, r in lines_by_peer(group).items() if len(r) > 1}
    if base is None or not lines:
        return None
    fig, ax = figure(group_title(base), "sparsity", f"speed against the best dense fp32 ({base['peer']})")
    ax.axhline(1.0, color="#333333", lw=0.8)
    for dense in (r for r in group if r["pattern"] == "dense" and r["peer"] != base["peer"]):
        speed = base["median_us"] / dense["median_us"]
        ax.axhline(speed, color="#999999", lw=0.8, ls=":")
        ax.annotate(
            dense["peer"], (0.0, speed), (2, 2), textcoords="offset points", fontsize=6, color="#666666"
        )
    for colour, (peer, rows) in zip(cycle(COLOURS), lines.items(), strict=False):
        points = [(r["sparsity"], base["median_us"] / r["median_us"]) for r in rows]
        spread = [[base["median_us"] / r[q] for r in rows] for q in ("q3_us", "q1_us")]
        ax.plot(*zip(*points, strict=True), marker="o", ms=3, color=colour, label=peer)
        ax.fill_between([s for s, _ in points], *spread, color=colour, alpha=0.15, lw=0)
        if (at := break_even(points)) is not None:
            ax.plot([at], [1.0], marker="D", ms=5, color=colour)
            ax.annotate(f"{100 * at:.0f} %", (at, 1.0), (3, -10), textcoords="offset points", color=colour)
    ax.set_xlim(0, 1)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}x")
    return save(fig, ax, records, path)


def rate_against_sparsity(records: list[Record], group: list[Record], path: Path) -> Path | None:
    base, rows = best_dense(group), lines_by_peer(group).get("prunus", [])
    limit = roofline(records, group[0]["threads"])
    if base is None or len(rows) < 2:
        return None
    fig, ax = figure(group_title(base), "sparsity", "useful GFLOP/s (2 x nonzeros x tokens)")
    ax.axhline(base["gflops"], color=COLOURS[1], lw=1, label=f"best dense fp32 ({base['peer']})")
    if limit:
        ax.axhline(limit["gflops"], color="#333333", lw=1, ls="--", label="FMA peak of this run")
    ax.plot(
        [r["sparsity"] for r in rows], [r["gflops"] for r in rows], "o-", color=COLOURS[0], label="prunus"
    )
    ax.set_ylim(0)
    return save(fig, ax, records, path)


def decode_against_ceiling(records: list[Record], group: list[Record], path: Path) -> Path | None:
    """The ceiling of a line: bytes of the fp32 dense weight over bytes of the packed one."""
    base = next((r for r in group if r["peer"] == "torch"), None)
    lines = {p: r for p, r in lines_by_peer(group).items() if p.startswith("prunus") and len(r) > 1}
    if base is None or not base["rotate"] or not lines:
        return None
    fig, ax = figure(group_title(base), "sparsity", "speed against torch fp32")
    for colour, (peer, rows) in zip(cycle(COLOURS), lines.items(), strict=False):
        at = [r["sparsity"] for r in rows]
        ax.plot(at, [base["median_us"] / r["median_us"] for r in rows], "o-", ms=3, color=colour, label=peer)
        ax.plot(
            at, [base["bytes"] / r["bytes"] for r in rows], "--", color=colour, label=f"{peer}, byte ceiling"
        )
    for dense in (r for r in group if r["pattern"] == "dense"):
        speed = base["median_us"] / dense["median_us"]
        ax.axhline(speed, color="#999999", lw=0.8, ls=":")
        ax.annotate(dense["peer"], (at[0], speed), (2, 2), textcoords="offset points", fontsize=6)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}x")
    return save(fig, ax, records, path)


def series(records: list[Record], over: str) -> dict[tuple[str, str], list[Record]]:
    """Lines over `over` ("m" or "threads") by (case, peer at sparsity)."""
    found: dict[tuple[str, str], list[Record]] = {}
    for r in (r for group in linear_groups(records).values() for r in group):
        fixed = f"{r['threads']} thread(s)" if over == "m" else f"m = {r['m']}"
        label = r["peer"] if r["pattern"] == "dense" else f"{r['peer']} {100 * r['sparsity']:.0f} %"
        found.setdefault((f"{r['model']} {r['layer']} {r['n']}x{r['k']}, {fixed}", label), []).append(r)
    return {name: sorted(rows, key=lambda r: int(r[over])) for name, rows in found.items()}


def line_pictures(records: list[Record], suite: str, over: str, folder: Path) -> list[Path]:
    """One picture per case: time per token against m, or speed against one thread over threads."""
    lines, paths = series(of_suite(records, suite), over), []
    per_token = over == "m"
    y = "us per token" if per_token else "speed against 1 thread"
    for number, case in enumerate(dict.fromkeys(case for case, _ in lines)):
        fig, ax = figure(case, "tokens (m)" if per_token else "threads", y)
        mine = [(label, rows) for (c, label), rows in lines.items() if c == case]
        for colour, (label, rows) in zip(cycle(COLOURS), mine, strict=False):
            first = rows[0]["median_us"]
            values = [r["median_us"] / r["m"] if per_token else first / r["median_us"] for r in rows]
            ax.plot([r[over] for r in rows], values, marker=".", ms=3, lw=1, color=colour, label=label)
        if per_token:
            ax.set_yscale("log")
        paths.append(save(fig, ax, records, folder / f"{suite}-{number}.svg"))
    return paths


GROUP_PICTURES: dict[str, Callable[[list[Record], list[Record], Path], Path | None]] = {
    "speed": speed_against_sparsity,
    "rate": rate_against_sparsity,
    "decode": decode_against_ceiling,
}


def plot_file(file: Path, folder: Path) -> int:
    """Every picture that the records are enough for; 2 when there is none."""
    records = read(file)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        *line_pictures(records, "cliffs", "m", folder),
        *line_pictures(records, "threads", "threads", folder),
    ]
    for group in linear_groups(r for r in records if r.get("suite") not in ("cliffs", "threads")).values():
        r = group[0]
        case = f"{r['n']}x{r['k']}-m{r['m']}-t{r['threads']}" + ("-memory" if r["rotate"] else "")
        case += f"-{r['activation']}" if r["activation"] else ""
        for name, draw in GROUP_PICTURES.items():
            path = draw(records, group, folder / f"{name}-{case}.svg")
            paths += [path] if path else []
    paths += [*draw_quality(records, folder), *draw_frontier(records, folder)]
    print(*paths, sep="\n")
    return 0 if paths else 2
