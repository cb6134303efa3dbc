"""Runs one group of the linear suites: all peers on one layer, m and thread count, interleaved."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cases import Layer, LinearSuite
from bench.environment import cache_bytes
from bench.load import LoadMeter
from bench.memory import Room, free_bytes
from bench.peers import Peer, Prepared
from bench.problem import Problem, dense_weight, inputs, pattern_sparsity, prune, relative_error
from bench.timing import Budget, Call, Turn, interleave

MAX_COPIES = 512
# Preparing a weight takes so many times its fp32 bytes for a while: the mask, the reference in float64.
PREPARING = 6


@dataclass(frozen=True)
class Entry:
    """One contender of a group, prepared and checked; no calls: there was no memory for it."""

    row: dict[str, Any]
    calls: list[Call | Turn]


def copies_needed(nbytes: int, rotate: bool) -> int:
    """So many weights that they are four times the last cache: none is still there when its turn comes."""
    return min(MAX_COPIES, -(-4 * cache_bytes(3) // max(nbytes, 1))) if rotate else 1


def sparsities_of(peer: Peer, pattern: str, wanted: tuple[float, ...]) -> list[float]:
    fixed = pattern_sparsity(pattern)
    return list(wanted) if fixed is None else [fixed]


def choices_of(peer: Peer, suite: LinearSuite) -> list[tuple[str, float]]:
    """Patterns and sparsities it runs with."""
    found = [(p, s) for p in peer.patterns for s in sparsities_of(peer, p, suite.sparsities)]
    return found or [("dense", 0.0)]


def copies_of(peer: Peer, problem: Problem, first: Prepared, wanted: int, room: int) -> list[Prepared]:
    """So many of one weight as were wanted, or as fit into so many bytes; one at least."""
    found, before = [first], free_bytes()
    while len(found) < wanted:
        # What a copy takes is more than its bytes for some peers: what is gone counts too.
        taken = max(len(found) * first.nbytes, before - free_bytes())
        if taken + first.nbytes > room:
            break
        found.append(peer.prepare(problem))
    return found


@dataclass
class Field:
    """The contenders of one layer, m and thread count, side by side in memory."""

    suite: LinearSuite
    layer: Layer
    m: int
    threads: int
    peers: list[Peer]
    say: Callable[[str], None]

    def entries(self) -> Iterator[Entry]:
        w, (x, b) = dense_weight(self.layer), inputs(self.layer, self.m)
        bias = b if self.suite.bias else None
        for peer in self.peers:
            peer.set_threads(self.threads)
        wanted = [(peer, *choice) for peer in self.peers for choice in choices_of(peer, self.suite)]
        room = Room(len(wanted))
        for peer, pattern, sparsity in wanted:
            share = room.next()
            if room.left() < PREPARING * w.nbytes:
                yield self.left_out(peer, pattern, sparsity, room)
                continue
            pruned = w if pattern == "dense" else prune(w, sparsity, pattern)
            problem = Problem(pruned, x, bias, self.suite.activation, self.threads)
            if peer.supports(problem):
                yield self.entry(peer, problem, {"pattern": pattern, "sparsity": sparsity}, share)

    def entry(self, peer: Peer, problem: Problem, choice: dict[str, Any], share: int) -> Entry:
        prepared = peer.prepare(problem)
        error = relative_error(peer.to_numpy(prepared.call()), problem.reference())
        if not error <= peer.tolerance:
            case = f"{self.layer}, m={self.m}, sparsity {choice['sparsity']}"
            self.say(f"{peer.name}: WRONG answer on {case}: error {error:.2g}")
        wanted = copies_needed(prepared.nbytes, self.suite.rotate)
        copies = copies_of(peer, problem, prepared, wanted, share)
        row = {
            "peer": peer.name,
            "dtype": peer.dtype,
            **choice,
            "detail": prepared.detail,
            "nnz": int(np.count_nonzero(problem.w)),
            "bytes": prepared.nbytes,
            "copies": len(copies),
            "copies_wanted": wanted,
            "error": error,
            "ok": bool(error <= peer.tolerance),
        }
        return Entry(row, [copy.turn or copy.call for copy in copies])

    def left_out(self, peer: Peer, pattern: str, sparsity: float, room: Room) -> Entry:
        why = f"{room.left() >> 20} MiB of memory left for it"
        self.say(f"{peer.name}: left out on {self.layer}, sparsity {sparsity}: {why}")
        return Entry({"peer": peer.name, "pattern": pattern, "sparsity": sparsity, "why": why}, [])


def run_group(
    suite: LinearSuite,
    layer: Layer,
    m: int,
    threads: int,
    peers: list[Peer],
    budget: Budget,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """One record per contender."""
    case = {
        "record": "linear",
        "model": layer.model,
        "layer": layer.name,
        "n": layer.n,
        "k": layer.k,
        "m": m,
        "threads": threads,
        "activation": suite.activation,
        "bias": suite.bias,
        "rotate": suite.rotate,
    }
    everyone = list(Field(suite, layer, m, threads, peers, say).entries())
    yield from ({**case, **entry.row, "record": "left out"} for entry in everyone if not entry.calls)
    field = [entry for entry in everyone if entry.calls]
    few = [entry.row for entry in field if entry.row["copies"] < entry.row["copies_wanted"]]
    if few:
        say(f"{layer}, m={m}: memory for fewer copies than wanted of {len(few)} of {len(field)} weights")
    meter = LoadMeter()
    timed = interleave([entry.calls for entry in field], budget)
    case["foreign"] = meter.foreign()
    for entry, samples in zip(field, timed, strict=True):
        flops = 2.0 * entry.row["nnz"] * m
        yield {**case, **entry.row, **samples.record(), "gflops": flops / samples.median / 1e9}


def groups(suite: LinearSuite) -> list[tuple[Layer, int, int]]:
    """Threads change least often: some pools take long to resize."""
    return [(layer, m, t) for t, layer, m in itertools.product(suite.threads, suite.layers, suite.m)]
