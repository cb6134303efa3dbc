"""Result records as tables: for the terminal (rich) and for pages (markdown)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bench.records import Record, best_dense, busiest, header, linear_groups, roofline

NOISY = 0.15  # quartile range over median from which a figure is marked with ~


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join([f"{self.title}\n", *("| " + " | ".join(line) + " |" for line in lines)])

    def print(self) -> None:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(box=SIMPLE, pad_edge=False)
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row, style="bold" if row[0].startswith("prunus") else None)
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 200  # a file has no width: never wrap
        console.print(self.title, style="bold")
        console.print(table)


def percent(sparsity: float) -> str:
    return f"{100 * sparsity:.0f} %"


def time_text(microseconds: float) -> str:
    return f"{microseconds / 1e3:.3g} ms" if microseconds >= 1e3 else f"{microseconds:.3g} us"


def noise(r: Record) -> str:
    return "~" if (r["q3_us"] - r["q1_us"]) > NOISY * r["median_us"] else ""


def group_title(r: Record) -> str:
    parts = [f"{r['model']} {r['layer']} {r['n']}x{r['k']}", f"m = {r['m']}", f"{r['threads']} thread(s)"]
    parts += [f"bias and {r['activation']}"] if r["activation"] else []
    if r["rotate"]:
        short = r["copies"] < r.get("copies_wanted", 0)
        parts.append("weights from memory as far as it went" if short else "weights from memory")
    return ", ".join(parts)


def sparsities_of(records: Iterable[Record]) -> list[float]:
    return sorted({r["sparsity"] for r in records if r["pattern"] != "dense"})


def ratio_tables(records: list[Record]) -> list[Table]:
    """Per group: a row per peer, speed against torch's fp32 F.linear of the same group."""
    tables = []
    for group in linear_groups(records).values():
        base = next((r for r in group if r["peer"] == "torch"), None)
        if base is None:
            continue
        sparsities = sparsities_of(group)
        title = f"{group_title(base)}: speed against torch fp32 ({time_text(base['median_us'])})"
        table = Table(title, ["peer", "dense", *map(percent, sparsities)])
        for peer in dict.fromkeys(r["peer"] for r in group):
            cells = {}
            for r in (r for r in group if r["peer"] == peer):
                place = "dense" if r["pattern"] == "dense" else r["sparsity"]
                cells[place] = f"{noise(r)}{base['median_us'] / r['median_us']:.2f}"
            table.rows.append([peer, *(cells.get(place, "") for place in ("dense", *sparsities))])
        tables.append(table)
    return tables


def three_ratios(r: Record | None, torch: Record, best: Record) -> str:
    if r is None:
        return ""
    speeds = [dense["median_us"] / r["median_us"] for dense in (torch, best)]
    return f"{noise(r)}{speeds[0]:.2f} / {speeds[1]:.2f} / {100 * r['gflops'] / best['gflops']:.0f}%"


def summary_table(records: list[Record], peer: str = "prunus") -> Table | None:
    """A row per group: speed against torch / the best dense fp32 peer / useful rate over that peer's."""
    groups = linear_groups(records).values()
    sparsities = sorted({s for group in groups for s in sparsities_of(r for r in group if r["peer"] == peer)})
    table = Table(
        f"{peer}: x torch fp32 / x best dense fp32 / useful flop rate against that dense",
        ["layer", "m", "threads", "best dense", *map(percent, sparsities)],
    )
    for group in groups:
        ours = {r["sparsity"]: r for r in group if r["peer"] == peer}
        torch, best = next((r for r in group if r["peer"] == "torch"), None), best_dense(group)
        if not ours or torch is None or best is None:
            continue
        row = [f"{best['n']}x{best['k']}", str(best["m"]), str(best["threads"]), best["peer"]]
        table.rows.append([*row, *(three_ratios(ours.get(s), torch, best) for s in sparsities)])
    return table if table.rows else None


def byte_ceiling_table(records: list[Record]) -> Table | None:
    """Rotated cases: speed against the bytes that had to be read. 100 % = as many weight bytes per second as
    memory gave to a plain read in the same run."""
    table = Table(
        "weights from memory: x torch fp32, weight bytes per second, share of the measured read bandwidth",
        ["peer", "layer", "m", "threads", "sparsity", "x torch", "GB/s", "of read"],
    )
    for group in linear_groups(records).values():
        torch = next((r for r in group if r["peer"] == "torch"), None)
        limit = roofline(records, group[0]["threads"])
        if not group[0]["rotate"] or torch is None:
            continue
        for r in (r for r in group if r["pattern"] == "dense" or r["peer"].startswith("prunus")):
            gbs = r["bytes"] / r["median_us"] / 1e3
            share = f"{100 * gbs / limit['read_gbs']:.0f} %" if limit else ""
            place = [r["peer"], f"{r['n']}x{r['k']}", str(r["m"]), str(r["threads"]), percent(r["sparsity"])]
            table.rows.append([*place, f"{torch['median_us'] / r['median_us']:.2f}", f"{gbs:.1f}", share])
    return table if table.rows else None


def jump_table(records: list[Record]) -> Table | None:
    """Largest step in time per token between neighbouring m, where at least 16 of them were measured."""
    lines: dict[tuple[str, ...], dict[int, float]] = {}
    for r in (r for group in linear_groups(records).values() for r in group):
        name = (r["peer"], f"{r['n']}x{r['k']}", str(r["threads"]), percent(r["sparsity"]))
        lines.setdefault(name, {})[r["m"]] = r["median_us"] / r["m"]
    table = Table(
        "largest step in time per token between neighbouring m",
        ["peer", "layer", "threads", "sparsity", "step", "from m", "to m"],
    )
    for name, times in lines.items():
        steps = [(max(times[m] / times[m + 1], times[m + 1] / times[m]), m) for m in times if m + 1 in times]
        if len(steps) >= 16:
            step, m = max(steps)
            table.rows.append([*name, f"{step:.2f}", str(m), str(m + 1)])
    return table if table.rows else None


def contest_tables(records: list[Record]) -> list[Table]:
    """Selection: milliseconds, how many times prunus's, GB/s of the dense tensor, memory peak."""
    found: dict[str, list[Record]] = {}
    for r in (r for r in records if r["record"] == "selection" and r["ok"]):
        title = f"{r['what']}, {r['n']}x{r['k']} float32, {r['threads']} thread(s)"
        found.setdefault(title, []).append(r)
    tables = []
    for title, group in found.items():
        ours = next((r["median_us"] for r in group if r["peer"] == "prunus"), None)
        table = Table(title, ["peer", "ms", "x prunus's time", "GB/s", "memory peak, x tensor"])
        limit = roofline(records, group[0]["threads"])
        nbytes = 4 * group[0]["n"] * group[0]["k"]
        if limit:
            read = nbytes / limit["read_gbs"] / 1e3
            share = f"{read / ours:.2f}" if ours else ""
            table.rows.append(
                ["(one read of the tensor)", f"{read / 1e3:.3g}", share, f"{limit['read_gbs']:.1f}", ""]
            )
        for r in group:
            ratio = f"{noise(r)}{r['median_us'] / ours:.2f}" if ours else ""
            peak = "" if r["peak_bytes"] is None else f"{r['peak_bytes'] / nbytes:.2f}"
            table.rows.append([r["peer"], f"{r['median_us'] / 1e3:.3g}", ratio, f"{r['gbs']:.2f}", peak])
        tables.append(table)
    return tables


def pack_tables(records: list[Record]) -> list[Table]:
    """GB/s of the dense tensor / memory peak over the dense tensor, a row per peer."""
    found: dict[str, list[Record]] = {}
    for r in (r for r in records if r["record"] == "pack" and r["ok"]):
        title = (
            f"{r['what']}, {r['n']}x{r['k']} float32, {r['threads']} thread(s): GB/s of dense / memory peak"
        )
        found.setdefault(title, []).append(r)
    tables = []
    for title, group in found.items():
        sparsities = sorted({r["sparsity"] for r in group})
        table = Table(title, ["peer", *map(percent, sparsities)])
        for peer in dict.fromkeys(r["peer"] for r in group):
            at = {r["sparsity"]: r for r in group if r["peer"] == peer}
            table.rows.append([peer, *(pack_cell(at.get(s)) for s in sparsities)])
        tables.append(table)
    return tables


def fusion_tables(records: list[Record]) -> list[Table]:
    """Speed against torch's dense steps, a row per way to do it."""
    return against_torch(records, "fusion", "way", lambda r: "")


def training_tables(records: list[Record]) -> list[Table]:
    """Speed against torch's dense float32, and GFLOP/s: two for each kept weight, token and product."""
    return against_torch(records, "train", "peer", lambda r: f" / {r['gflops']:.0f}")


def against_torch(
    records: list[Record], kind: str, column: str, more: Callable[[Record], str]
) -> list[Table]:
    """A table per case, a column per sparsity: torch's time over the peer's, and what `more` says."""
    found: dict[str, list[Record]] = {}
    for r in (r for r in records if r["record"] == kind and r["ok"]):
        title = f"{r['what']}, {r['n']}x{r['k']}, m = {r['m']}, {r['threads']} thread(s): speed against torch"
        found.setdefault(title, []).append(r)
    tables = []
    for title, group in found.items():
        sparsities = sorted({r["sparsity"] for r in group})
        base = {r["sparsity"]: r["median_us"] for r in group if r["peer"] == "torch"}
        table = Table(title, [column, *map(percent, sparsities)])
        for peer in dict.fromkeys(r["peer"] for r in group):
            at = {r["sparsity"]: r for r in group if r["peer"] == peer}
            cells = [
                f"{noise(at[s])}{base[s] / at[s]['median_us']:.2f}{more(at[s])}" if s in at else ""
                for s in sparsities
            ]
            table.rows.append([peer, *cells])
        tables.append(table)
    return tables


def pack_cell(r: Record | None) -> str:
    if r is None:
        return ""
    peak = "" if r["peak_bytes"] is None else f" / {r['peak_bytes'] / (4 * r['n'] * r['k']):.2f}x"
    return f"{noise(r)}{r['gbs']:.2f}{peak}"


def machine_text(records: list[Record]) -> str:
    """Two or three lines: what was measured on, with what."""
    head = header(records)
    if not head:
        return "machine unknown"
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    limits = "; ".join(
        f"{r['threads']} thread(s): {r['gflops']:.0f} GFLOP/s FMA peak, {r['read_gbs']:.1f} GB/s read"
        for r in records
        if r["record"] == "roofline"
    )
    busy = busiest(records)
    warning = (
        f"\nNOT ALONE: others used up to {busy:.2f} processors while this was measured" if busy > 0.1 else ""
    )
    return (
        f"{head['cpu']}, {head['cpus']} cpus, isa {head['isa']}, commit {head['commit']}, {head['time']}\n"
        f"{versions}; {', '.join(head['blas'])}\n{limits}{warning}"
    ).rstrip()


def all_tables(records: list[Record]) -> list[Table]:
    few = [r for r in records if r.get("suite") != "cliffs"]  # 130 tables of it would bury the rest
    singles = (summary_table(few), byte_ceiling_table(few), jump_table(records))
    return [
        *ratio_tables(few),
        *contest_tables(records),
        *fusion_tables(records),
        *training_tables(records),
        *pack_tables(records),
        *(table for table in singles if table),
    ]
