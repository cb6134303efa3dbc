"""`python -m bench run`: suites into a result file."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from bench.cases import LINEAR_SUITES, OTHER_SUITES, SPARSITIES, THREADS, LinearSuite, find_layer
from bench.environment import describe
from bench.fusions import run_fusions
from bench.linear import groups, run_group
from bench.memory import SHARE, free_bytes
from bench.packing import run_packing
from bench.peers import PEERS, Peer
from bench.records import Writer
from bench.roofline import best, measure
from bench.selection import run_selection
from bench.tables import all_tables, machine_text
from bench.timing import QUICK, Budget
from bench.training import run_training

# What a suite without copies holds at its worst, in fp32 weights: 6.0 measured, of a sort with its indices.
HELD = 8


@dataclass(frozen=True)
class ByTokens:
    """A suite of layers and tokens, with what it measures when nothing else is asked for."""

    run: Callable[..., Iterator[dict[str, Any]]]
    shapes: tuple[tuple[int, int], ...]
    m: tuple[int, ...]
    sparsities: tuple[float, ...]


BY_TOKENS = {
    "fusions": ByTokens(run_fusions, ((3072, 768),), (1, 128), (0.5, 0.8, 0.9)),
    "train": ByTokens(run_training, ((3072, 768), (768, 3072)), (512,), (0.8, 0.9, 0.95)),
}
QUICK_SUITES = ("encoder", "decode", "calls", "selection", "pack")


def choose_peers(names: tuple[str, ...] | None, quick: bool) -> tuple[list[Peer], list[str]]:
    """Peers that can run here, and a word for each that cannot. Raises ValueError on unknown names."""
    known = {peer.name: peer for peer in PEERS}
    if unknown := sorted(set(names or ()) - set(known)):
        raise ValueError(f"peers: expected names of {', '.join(known)}, got {', '.join(unknown)}")
    usual = [p for p in PEERS if not (p.on_request or (quick and p.slow))]
    wanted = [p for p in PEERS if p.name in names] if names else usual
    reasons = {peer.name: peer.missing() for peer in wanted}
    skipped = [f"{name}: skipped, {reason}" for name, reason in reasons.items() if reason]
    return [peer for peer in wanted if not reasons[peer.name]], skipped


def choose_suite(name: str, args: argparse.Namespace) -> LinearSuite:
    suite = LINEAR_SUITES[name].quick() if args.quick else LINEAR_SUITES[name]
    given = {
        "layers": args.shapes and tuple(find_layer(n, k) for n, k in args.shapes),
        "m": args.m,
        "threads": args.threads,
        "sparsities": args.sparsity,
        "peers": args.peers,
    }
    return replace(suite, **{name: value for name, value in given.items() if value})


def records_of(name: str, args: argparse.Namespace, budget: Budget) -> Iterator[dict[str, Any]]:
    threads = args.threads or (THREADS[:1] if args.quick else THREADS)
    if name in LINEAR_SUITES:
        suite = choose_suite(name, args)
        peers, skipped = choose_peers(suite.peers, args.quick)
        print(*skipped, sep="\n")
        for layer, m, t in groups(suite):
            yield from run_group(suite, layer, m, t, peers, budget, print)
        return
    given = args.shapes or ([(1536, 384)] if args.quick else None)
    for t in threads:
        if name in BY_TOKENS:
            usual = BY_TOKENS[name]
            for shape, m in product(given or usual.shapes, args.m or usual.m):
                if short := shortage(shape):
                    print(f"{name}: {short['n']}x{short['k']} left out, {short['why']}")
                    yield {**short, "threads": t, "m": m}
                    continue
                yield from usual.run(shape, m, t, args.sparsity or usual.sparsities, budget, print)
            continue
        for shape in given or [(4096, 4096)]:
            if short := shortage(shape):
                print(f"{name}: {short['n']}x{short['k']} left out, {short['why']}")
                yield {**short, "threads": t}
            elif name == "selection":
                yield from run_selection(shape, t, budget, print)
            else:
                yield from run_packing(shape, t, args.sparsity or SPARSITIES, budget, print)


def shortage(shape: tuple[int, int]) -> dict[str, Any] | None:
    """A record of why a weight (n, k) needs more than the share of the free memory; None: it fits."""
    needed, free = HELD * shape[0] * shape[1] * 4, free_bytes()
    if needed <= SHARE * free:
        return None
    why = f"{needed >> 20} MiB of memory needed, {free >> 20} free"
    return {"record": "left out", "n": shape[0], "k": shape[1], "why": why}


def run(args: argparse.Namespace, unset: list[str]) -> int:
    """Exit status 1 when an answer of prunus was wrong."""
    suites = args.suites or (QUICK_SUITES if args.quick else (*LINEAR_SUITES, *OTHER_SUITES))
    if unknown := sorted(set(suites) - {*LINEAR_SUITES, *OTHER_SUITES}):
        raise ValueError(
            f"suites: expected names of {', '.join((*LINEAR_SUITES, *OTHER_SUITES))}, got {unknown}"
        )
    budget = QUICK if args.quick else Budget()
    budget = replace(budget, rounds=args.rounds) if args.rounds else budget
    out = Writer(Path(args.out))
    out.write(describe(unset))
    roofline = measure(args.threads or THREADS)
    start = time.perf_counter()
    for name in suites:
        for record in records_of(name, args, budget):
            out.write({**record, "suite": name})
        print(f"{name}: done after {time.perf_counter() - start:.0f} s", flush=True)
    # Once more: a busy moment at one end of the run must not lower the roof.
    for record in best(roofline, measure(args.threads or THREADS)):
        out.write(record)
    out.close()
    print(machine_text(out.records))
    for table in all_tables(out.records):
        print()
        table.print()
    print(f"\n{len(out.records)} records in {args.out}")
    return int(any(r["peer"].startswith("prunus") and not r["ok"] for r in out.records if "ok" in r))


def show_list() -> int:
    for name, suite in LINEAR_SUITES.items():
        print(f"{name:10} {suite.text}")
    for name, text in OTHER_SUITES.items():
        print(f"{name:10} {text}")
    print(
        "\nquality    (a command of its own) methods, patterns, structure: quality, and measured milliseconds"
    )
    print()
    for peer in PEERS:
        pattern = ", ".join(peer.patterns) or "dense"
        print(f"{peer.name:18} {pattern:14} {peer.dtype:9} {peer.missing() or 'ready'}")
    return 0
