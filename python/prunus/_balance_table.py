"""How many milliseconds every layer takes at every sparsity, measured inside the running model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import nn

from prunus._accelerate_survey import Site
from prunus._progress import progress
from prunus._running import Batch
from prunus._timing import Times, rounds
from prunus.families import weight_matrix
from prunus.methods import choose
from prunus.nn import SparseLinear
from prunus.patterns import Pattern

__all__ = ["Table", "measure", "swapped"]

# Per level: enough passes for a median, few enough for ten levels of a large model.
SECONDS, AT_LEAST, AT_MOST = 2.0, 5, 30


@dataclass
class Table:
    """model_ms: the dense model, all batches. dense: layer name -> ms; sparse: layer name -> ms per level."""

    model_ms: float
    dense: dict[str, float] = field(default_factory=dict)
    sparse: dict[str, list[float]] = field(default_factory=dict)

    def gains(self, name: str) -> list[float]:
        """Milliseconds saved per level; where sparse is slower the layer stays dense and saves nothing."""
        if name not in self.sparse:
            return []
        return [max(0.0, self.dense[name] - ms) for ms in self.sparse[name]]


def measure(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], levels: list[Pattern]
) -> Table:
    """Time `sites` dense and packed at every level; the zeros of a trial are those of the smallest weights.

    Clocks sit on the layers of the running model: caches, threads and memory are in the state that they will
    be in. Dense and sparse passes alternate; a layer's sparse time is its dense time of all levels scaled by
    the ratio seen at its level, so a slow phase of the machine does not favour a level.
    """
    whole = Times()
    dense: dict[str, list[float]] = {site.name: [] for site in sites}
    ratios: dict[str, list[float]] = {site.name: [] for site in sites}
    for level in progress(levels, "timing levels"):
        packed = [_trial(site, level) for site in sites]
        clocks: tuple[dict[str, list[float]], ...] = (
            {s.name: [] for s in sites},
            {s.name: [] for s in sites},
        )
        _run(model, batches)
        for _ in rounds(SECONDS, AT_LEAST, AT_MOST):
            with _clocked(sites, [site.module for site in sites], clocks[0]):
                whole.add(lambda: _run(model, batches))
            with swapped(sites, packed), _clocked(sites, packed, clocks[1]):
                _run(model, batches)
        for site in sites:
            plain, sparse = (_per_pass(clock[site.name], site) for clock in clocks)
            dense[site.name] += plain
            ratios[site.name].append(median(sparse) / median(plain))
    middle = {name: median(values) for name, values in dense.items()}
    table = {name: [ratio * middle[name] for ratio in every] for name, every in ratios.items()}
    return Table(whole.ms, middle, table)


@contextmanager
def swapped(sites: Sequence[Site], modules: Sequence[nn.Module]) -> Iterator[None]:
    """Other modules at the sites; what stood there before comes back."""
    before = [site.places[0][0]._modules[site.places[0][1]] for site in sites]
    try:
        for site, module in zip(sites, modules, strict=True):
            site.put(module)
        yield
    finally:
        for site, old in zip(sites, before, strict=True):
            assert old is not None
            site.put(old)


def _trial(site: Site, level: Pattern) -> SparseLinear:
    return SparseLinear.from_linear(site.module, choose(weight_matrix(site.module).abs(), level))


@contextmanager
def _clocked(
    sites: Sequence[Site], modules: Sequence[nn.Module], clock: dict[str, list[float]]
) -> Iterator[None]:
    """Every call of the modules adds its milliseconds to its site's list."""
    try:
        for site, module in zip(sites, modules, strict=True):
            vars(module)["forward"] = _timed(module.forward, clock[site.name])
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)


def _timed(forward: Callable[..., Any], clock: list[float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        output = forward(*args, **kwargs)
        clock.append((time.perf_counter() - start) * 1e3)
        return output

    return timed


def _per_pass(calls: list[float], site: Site) -> list[float]:
    """Sums over the calls of one pass of all batches."""
    size = sum(site.inputs.values())
    return [sum(calls[i : i + size]) for i in range(0, len(calls), size)]


def _run(model: nn.Module, batches: Sequence[Batch]) -> None:
    for batch in batches:
        batch.run(model)
