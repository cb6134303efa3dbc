"""One cell after the other: prune a copy, look at it, and time it where that is asked for."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import prunus._tools.timing
import prunus.balance.table
import prunus.prune.verb
from bench.quality.grid import STRUCTURES, Cell, method_of, pattern_of, structure_of
from bench.quality.metrics import input_variation, live_weights
from bench.quality.subjects import Subject
from prunus import Calibration, Target, Unstructured, Wanda, accelerate_, balance_, prune_, shrink_
from prunus._tools.running import evaluating
from prunus._tools.timing import take_turns
from prunus.families import stacks

Record = dict[str, Any]
CLOCKS = (prunus._tools.timing, prunus.balance.table, prunus.prune.verb)
SECONDS = 4.0  # per timed model


def pruned(subject: Subject, *cells: Cell) -> nn.Module:
    """A copy of the subject's model, pruned by one cell after the other."""
    model = copy.deepcopy(subject.model)
    for cell in cells:
        calibration = Calibration(subject.calibration(cell.seed), progress=False)
        if cell.pattern in STRUCTURES:
            blocks = sum(len(stack.layers) for stack in stacks(model))
            shrink_(model, structure_of(cell, blocks), calibration)
        else:
            method = method_of(cell.method, cell.seed, subject.loss)
            prune_(model, pattern_of(cell.pattern, cell.sparsity), method, calibration)
    return model


def quality_record(subject: Subject, cell: Cell) -> Record:
    """Figures of one cell; seconds: of pruning alone, calibration included."""
    start = time.perf_counter()
    model = pruned(subject, cell)
    seconds = time.perf_counter() - start
    return cell.record() | {"seconds": seconds} | _figures(subject, model)


def time_record(subject: Subject, cell: Cell) -> Record:
    """Also converted by `accelerate_` and timed in turn with the dense model."""
    model = pruned(subject, cell)
    figures = _figures(subject, model)
    converted = 0
    if cell.pattern not in STRUCTURES:
        converted = accelerate_(model, subject.timed, min_speedup=1.0).summary["converted"]
    return cell.record() | figures | {"converted": converted} | _times(subject, model)


def balance_record(subject: Subject, speedup: float) -> Record:
    """`balance_` with Wanda towards a speed; off: measured over predicted time, minus 1."""
    model = copy.deepcopy(subject.model)
    calibration = Calibration(subject.calibration(0), progress=False)
    target = Target(speedup=speedup, pattern=Unstructured(0.5, scope="row"))
    way = {"pattern": f"balance {speedup:g}x", "threads": torch.get_num_threads(), "clock": _clock()}
    try:
        s = balance_(model, subject.timed, target, Wanda(), calibration).summary
    except ValueError as error:
        if not str(error).startswith("target:"):
            raise
        return way | {"out_of_reach": str(error)}
    dense = _dense_again(subject, model)
    cell = Cell("wanda", way["pattern"], s["sparsity"])
    told = {name: s[name] for name in ("predicted_speedup", "measured_speedup", "off", "converted")}
    return cell.record() | _figures(subject, dense) | told | _times(subject, model)


def variation_record(subject: Subject, seed: int) -> Record:
    """How much the input norms of every layer of the dense model vary, and its figures."""
    layers = input_variation(subject.model, subject.calibration(seed))
    cv = median(layers.values())
    return {"seed": seed, "layers": layers, "cv": cv, "dense": subject.quality(subject.model)}


def _figures(subject: Subject, model: nn.Module) -> Record:
    live, _ = live_weights(model)
    _, whole = live_weights(subject.model)
    return {"gone": 1.0 - live / whole} | subject.quality(model)


def _times(subject: Subject, model: nn.Module) -> Record:
    def forward(which: nn.Module) -> None:
        which(**subject.timed)

    with evaluating(subject.model, model):
        calls = [partial(forward, subject.model), partial(forward, model)]
        dense, now = take_turns(calls, SECONDS, at_least=7, at_most=40)
    found = {"dense_ms": dense.ms, "ms": now.ms, "spread_ms": now.spread_ms}
    return found | {"speedup": dense.ms / now.ms, "threads": torch.get_num_threads(), "clock": _clock()}


def _clock() -> str:
    return "wall" if CLOCKS[0].time is time else "cpu"


@contextmanager
def processor_time(wanted: bool) -> Iterator[None]:
    """Milliseconds of the one thread's processor time instead of the wall's: what neighbours take of the
    processor does not count (what they take of its caches does). Raises ValueError with several threads."""
    if not wanted:
        yield
        return
    if torch.get_num_threads() != 1:
        raise ValueError(f"--cpu-time: expected --threads 1, got {torch.get_num_threads()} threads")
    try:
        for module in CLOCKS:
            vars(module)["time"] = SimpleNamespace(perf_counter=time.thread_time)
        yield
    finally:
        for module in CLOCKS:
            vars(module)["time"] = time


def _dense_again(subject: Subject, model: nn.Module) -> nn.Module:
    """A copy with its packed layers as plain ones: `live_weights` counts their zeros."""
    from prunus import SparseLinear

    dense = copy.deepcopy(model)
    for parent in list(dense.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SparseLinear):
                setattr(parent, name, child.to_linear())
    return dense
