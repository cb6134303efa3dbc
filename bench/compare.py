"""Two result files: what became slower by more than the spread."""

from dataclasses import dataclass

from bench.records import Record, dense_times, key, linear_groups, measured
from bench.tables import Table, group_title, percent, time_text


@dataclass(frozen=True)
class Change:
    """One case in both files."""

    before: Record
    after: Record
    ratio: float  # of the times, after over before; above 1 is slower
    allowed: float  # a ratio up to this one is noise

    @property
    def verdict(self) -> str:
        return "slower" if self.ratio > self.allowed else "faster" if self.ratio < 1 / self.allowed else ""


def spread(r: Record) -> float:
    """Quartile range over median."""
    return float((r["q3_us"] - r["q1_us"]) / r["median_us"])


def clock(records: list[Record]) -> dict[tuple[object, ...], float]:
    """Per linear group the time of torch's dense layer: divides out a machine that runs slower as a whole."""
    return {group: dense_times(rows).get("torch", 1.0) for group, rows in linear_groups(records).items()}


def changes(
    before: list[Record], after: list[Record], peer: str, floor: float, relative: bool
) -> list[Change]:
    """Cases of `peer` that both files hold.

    A change counts when it exceeds `floor` (0.05: 5 %) and the sum of both quartile ranges, in the median and
    in the minimum: noise moves one of them, a real change both. relative: times are divided by torch's of the
    group.
    """
    old = {key(r): r for r in measured(before) if r["peer"] == peer}
    clocks = (clock(before), clock(after)) if relative else ({}, {})
    found = []
    for r in measured(after):
        if r["peer"] != peer or key(r) not in old:
            continue
        b = old[key(r)]
        scale = 1.0
        if relative and r["record"] == "linear":
            group = next(g for g, rows in linear_groups([r]).items()) if r["ok"] else None
            scale = clocks[0].get(group, 1.0) / clocks[1].get(group, 1.0)
        ratios = [scale * r[name] / b[name] for name in ("median_us", "min_us")]
        ratio = min(ratios, key=lambda x: abs(x - 1.0))
        found.append(Change(b, r, ratio, 1.0 + max(floor, spread(b) + spread(r))))
    return found


def case_title(r: Record) -> str:
    if r["record"] == "linear":
        return f"{group_title(r)}, {percent(r['sparsity'])}"
    at = f", {percent(r['sparsity'])}" if "sparsity" in r else ""
    return f"{r['what']} {r['n']}x{r['k']}, {r['threads']} thread(s){at}"


def change_table(found: list[Change]) -> Table:
    table = Table(
        "after / before (time; above 1 is slower)", ["case", "before", "after", "ratio", "noise up to", ""]
    )
    for c in sorted(found, key=lambda c: -c.ratio):
        times = [time_text(c.before["median_us"]), time_text(c.after["median_us"])]
        table.rows.append([case_title(c.after), *times, f"{c.ratio:.2f}", f"{c.allowed:.2f}", c.verdict])
    return table
