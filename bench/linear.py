"""Runs one group of the linear suites: all peers on one layer, m and thread count, interleaved."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cases import Layer, LinearSuite
from bench.environment import cache_bytes
from bench.load import LoadMeter
from bench.peers import Peer, Prepared
from bench.problem import Problem, dense_weight, inputs, pattern_sparsity, prune, relative_error
from bench.timing import Budget, Call, Turn, interleave

MAX_COPIES = 512


@dataclass(frozen=True)
class Entry:
    """One contender of a group, prepared and checked."""

    row: dict[str, Any]
    calls: list[Call | Turn]


def copies_needed(nbytes: int, rotate: bool) -> int:
    """So many weights that they are four times the last cache: none is still there when its turn comes."""
    return min(MAX_COPIES, -(-4 * cache_bytes(3) // max(nbytes, 1))) if rotate else 1


def sparsities_of(peer: Peer, pattern: str, wanted: tuple[float, ...]) -> list[float]:
    fixed = pattern_sparsity(pattern)
    return list(wanted) if fixed is None else [fixed]


def prepare(peer: Peer, problem: Problem, rotate: bool) -> tuple[Prepared, list[Call | Turn], float]:
    """Prepared weight, its calls (one per copy) and the error of its answer."""
    prepared = peer.prepare(problem)
    error = relative_error(peer.to_numpy(prepared.call()), problem.reference())
    more = copies_needed(prepared.nbytes, rotate) - 1
    copies = [prepared, *(peer.prepare(problem) for _ in range(more))]
    return prepared, [copy.turn or copy.call for copy in copies], error


def entries(
    suite: LinearSuite, layer: Layer, m: int, threads: int, peers: list[Peer], say: Callable[[str], None]
) -> Iterator[Entry]:
    w, (x, b) = dense_weight(layer), inputs(layer, m)
    bias = b if suite.bias else None
    for peer in peers:
        peer.set_threads(threads)
    for peer in peers:
        choices = [
            (pattern, s) for pattern in peer.patterns for s in sparsities_of(peer, pattern, suite.sparsities)
        ] or [("dense", 0.0)]
        for pattern, sparsity in choices:
            pruned = w if pattern == "dense" else prune(w, sparsity, pattern)
            problem = Problem(pruned, x, bias, suite.activation, threads)
            if not peer.supports(problem):
                continue
            prepared, calls, error = prepare(peer, problem, suite.rotate)
            if not error <= peer.tolerance:
                say(f"{peer.name}: WRONG answer on {layer}, m={m}, sparsity {sparsity}: error {error:.2g}")
            nnz = int(np.count_nonzero(pruned))
            yield Entry(
                {
                    "peer": peer.name,
                    "dtype": peer.dtype,
                    "pattern": pattern,
                    "sparsity": sparsity,
                    "detail": prepared.detail,
                    "nnz": nnz,
                    "bytes": prepared.nbytes,
                    "copies": len(calls),
                    "error": error,
                    "ok": bool(error <= peer.tolerance),
                },
                calls,
            )


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
    field = list(entries(suite, layer, m, threads, peers, say))
    meter = LoadMeter()
    timed = interleave([entry.calls for entry in field], budget)
    case["foreign"] = meter.foreign()
    for entry, samples in zip(field, timed, strict=True):
        flops = 2.0 * entry.row["nnz"] * m
        yield {**case, **entry.row, **samples.record(), "gflops": flops / samples.median / 1e9}


def groups(suite: LinearSuite) -> list[tuple[Layer, int, int]]:
    """Threads change least often: some pools take long to resize."""
    return [(layer, m, t) for t, layer, m in itertools.product(suite.threads, suite.layers, suite.m)]
