"""`python -m bench quality`: cells into a result file; what is there already is not made again."""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.environment import commit, describe
from bench.quality.grid import SEEDS, cells, full_cells, quick_cells, timed_cells
from bench.quality.subjects import GPT, MiniLM, Subject
from bench.records import Writer
from prunus._tools.progress import progress

PARTS = ("minilm", "gpt", "times", "speed", "plots")
SUBJECTS: dict[str, Callable[[], Subject]] = {"minilm": MiniLM, "gpt": GPT}
SPEEDUPS = (1.5, 2.0)

Key = tuple[Any, ...]
Job = tuple[Key, Callable[[], dict[str, Any]]]


def run(args: argparse.Namespace, unset: list[str]) -> int:
    """Measure what is missing, print tables, draw pictures."""
    import torch

    from bench.quality.speed import speed_jobs
    from bench.quality.work import processor_time

    if args.threads:
        torch.set_num_threads(args.threads)
    parts = args.part or (("minilm", "times", "plots") if args.quick else PARTS)
    out = Results(args.out, unset)
    subjects: dict[str, Subject] = {}
    for part in (p for p in PARTS if p in parts):
        if part in SUBJECTS:
            subjects[part] = SUBJECTS[part]()
            run_jobs(out, quality_jobs(subjects[part], args), part)
        elif part == "times":
            for name in [name for name in SUBJECTS if name in parts] or SUBJECTS:
                subject = subjects.get(name) or SUBJECTS[name]()
                with processor_time(args.cpu_time):
                    run_jobs(out, time_jobs(subject, args), f"times of {name}")
        elif part == "speed":
            with processor_time(args.cpu_time):
                run_jobs(out, speed_jobs(args.quick), part)
    out.writer.close()
    if args.publish:
        from bench.quality.publish import publish

        print(*publish(out.writer.records), sep="\n")
        return 0
    return show(out.writer.records, "plots" in parts, args.out)


def show(records: list[dict[str, Any]], plots: bool, out: Path) -> int:
    from bench.quality.plots import draw
    from bench.quality.tables import quality_tables
    from bench.tables import machine_text

    print(machine_text(records))
    for table in quality_tables(records):
        print()
        table.print()
    if plots:
        print(*draw(records, out.parent), sep="\n")
    print(f"\n{len(records)} records in {out}")
    return 0


class Results:
    """A result file that is gone on with."""

    def __init__(self, path: Path, unset: list[str]) -> None:
        self.writer = Writer(path, resume=True)
        if not self.writer.records:
            self.writer.write(describe(unset))
        self.done = {tuple(r["key"]) for r in self.writer.records if "key" in r}
        self.commit = commit()

    def write(self, key: Key, record: dict[str, Any]) -> None:
        kind, part, *_ = key
        self.writer.write({"record": kind, "part": part, **record, "commit": self.commit, "key": list(key)})
        self.done.add(key)


def quality_jobs(subject: Subject, args: argparse.Namespace) -> Iterator[Job]:
    from bench.quality import work

    for seed in SEEDS[: 1 if args.quick else None]:
        yield ("quality-variation", subject.name, seed), partial(work.variation_record, subject, seed)
    for cell in quick_cells() if args.quick else full_cells() if args.full else cells():
        yield ("quality", subject.name, *cell.key()), partial(work.quality_record, subject, cell)


def time_jobs(subject: Subject, args: argparse.Namespace) -> Iterator[Job]:
    import torch

    from bench.quality import work

    part, clock = subject.name, ("cpu" if args.cpu_time else "wall", torch.get_num_threads())
    for cell in timed_cells(args.quick):
        yield ("quality-time", part, *cell.key(), *clock), partial(work.time_record, subject, cell)
    for speedup in SPEEDUPS[: 1 if args.quick else None]:
        balance = partial(work.balance_record, subject, speedup)
        yield ("quality-balance", part, speedup, *clock), balance


def run_jobs(out: Results, jobs: Iterable[Job], label: str) -> None:
    """Do what the file does not have."""
    wanted = [(key, job) for key, job in jobs if key not in out.done]
    start = time.perf_counter()
    for key, job in progress(wanted, label):
        out.write(key, job())
    if wanted:
        print(f"{label}: {len(wanted)} cells in {time.perf_counter() - start:.0f} s", flush=True)
