"""Result files: JSON lines, one record a line, the first describes the machine."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]

# What makes a linear group: its peers were run interleaved.
GROUP = ("suite", "n", "k", "m", "threads", "bias", "activation", "rotate")
# What makes two records the same case, by kind of record.
KEYS = {
    "linear": (*GROUP, "peer", "pattern", "sparsity"),
    "selection": ("what", "n", "k", "threads", "peer"),
    "fusion": ("what", "n", "k", "m", "threads", "sparsity", "peer"),
    "pack": ("what", "n", "k", "threads", "sparsity", "peer"),
}


class Writer:
    """Appends every record as it is measured: an interrupted run keeps what it has. resume: go on with a file
    that exists; its records are in `records`."""

    def __init__(self, path: Path, resume: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records: list[Record] = []
        if resume and path.exists():
            _drop_broken_end(path)
            self.records = read(path)
        self.file = path.open("a" if resume else "w", encoding="utf-8")

    def write(self, record: Record) -> None:
        self.records.append(record)
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read(path: Path) -> list[Record]:
    """Records of a result file. Raises ValueError naming the line that is not one."""
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: expected one JSON object, got {line[:40]!r}") from error
        if not isinstance(record, dict) or "record" not in record:
            raise ValueError(f"{path}, line {number}: expected an object with the key 'record'")
        records.append(record)
    return records


def _drop_broken_end(path: Path) -> None:
    """An interrupted run may have left half a line."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")


def key(record: Record) -> tuple[Any, ...]:
    kind = record["record"]
    return (kind, *(record.get(name) for name in KEYS[kind]))


def measured(records: Iterable[Record]) -> Iterator[Record]:
    return (r for r in records if r["record"] in KEYS)


def of_suite(records: Iterable[Record], *suites: str) -> list[Record]:
    return [r for r in records if r.get("suite") in suites]


def linear_groups(records: Iterable[Record]) -> dict[tuple[Any, ...], list[Record]]:
    """Linear records with a right answer, by group, in the order of the file."""
    found: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for r in records:
        if r["record"] == "linear" and r["ok"]:
            found[tuple(r.get(name) for name in GROUP)].append(r)
    return dict(found)


def dense_times(group: Iterable[Record]) -> dict[str, float]:
    """Median microseconds of every dense peer of a group, fastest first; int8 included."""
    times = {r["peer"]: r["median_us"] for r in group if r["pattern"] == "dense"}
    return dict(sorted(times.items(), key=lambda item: item[1]))


def best_dense(group: list[Record], dtype: str = "float32") -> Record | None:
    """The fastest dense peer of a group with that value type."""
    found = [r for r in group if r["pattern"] == "dense" and r["dtype"] == dtype]
    return min(found, key=lambda r: float(r["median_us"]), default=None)


def busiest(records: Iterable[Record]) -> float:
    """Most processors that others used during any case (bench/load.py)."""
    return max((float(r.get("foreign", 0.0)) for r in records), default=0.0)


def header(records: Iterable[Record]) -> Record:
    return next((r for r in records if r["record"] == "run"), {})


def roofline(records: Iterable[Record], threads: int) -> Record | None:
    return next((r for r in records if r["record"] == "roofline" and r["threads"] == threads), None)
