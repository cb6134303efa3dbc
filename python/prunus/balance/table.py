"""How many milliseconds every layer takes at every sparsity, measured inside the running model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from torch import nn

from prunus._tools.progress import progress
from prunus._tools.running import Batch
from prunus._tools.timing import Times, laps, rounds
from prunus.accelerate.survey import Site
from prunus.families import weight_matrix
from prunus.methods.base import choose
from prunus.nn import SparseLinear
from prunus.patterns import Pattern

__all__ = ["Table", "Turns", "in_turn", "measure", "rehearse", "swapped"]

# Per level, and for a whole model: enough turns for a median, few enough for ten levels of a large model.
LEVEL_SECONDS, WHOLE_SECONDS = 2.0, 10.0
AT_LEAST, AT_MOST = 5, 40
FEWEST = 2  # turns that a model gets that is too slow for AT_LEAST in the time there is
SETTLED = 0.01  # the median of the ratios is known to about this share of itself: no more turns


@dataclass
class Turns:
    """Seconds of two contenders that take turns."""

    first: Times = field(default_factory=Times)
    second: Times = field(default_factory=Times)

    @property
    def ratios(self) -> list[float]:
        """second / first, turn by turn: a slow phase of the machine hits both of a pair."""
        return [b / a for a, b in zip(self.first.seconds, self.second.seconds, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return median(self.ratios)

    @property
    def spread(self) -> float:
        """Quartile range of the ratios over their median."""
        if len(self.ratios) < 2:
            return 0.0
        low, _, high = quantiles(self.ratios, n=4)
        return (high - low) / self.ratio

    def rounds(self, seconds: float, most: float = math.inf) -> Iterator[int]:
        """Round numbers until the time is used up or the ratio is settled; after `most` seconds FEWEST do."""
        start = time.perf_counter()
        for i in rounds(seconds, AT_LEAST, AT_MOST):
            if i > AT_LEAST and self.spread < SETTLED * len(self.ratios) ** 0.5:
                return
            if i >= FEWEST and time.perf_counter() - start > most:
                return
            yield i


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
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    levels: list[Pattern],
    seconds: float = math.inf,
) -> Table:
    """Time `sites` dense and packed at every level; the zeros of a trial are those of the smallest weights.

    seconds: for all levels; a model too slow for them gets few passes.

    Clocks sit on the layers of the running model: caches, threads and memory are in the state that they will
    be in. Dense and sparse passes alternate; a layer's sparse time is its dense time of all levels scaled by
    the median of the ratios of neighbouring passes at its level, so a slow phase of the machine does not
    favour a level.
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
        turns = Turns()
        with swapped(sites, packed):
            _run(model, batches)
        _run(model, batches)
        for _ in turns.rounds(LEVEL_SECONDS, seconds / len(levels)):
            with _clocked(sites, [site.module for site in sites], clocks[0]):
                turns.first.add(lambda: _run(model, batches))
            with swapped(sites, packed), _clocked(sites, packed, clocks[1]):
                turns.second.add(lambda: _run(model, batches))
        whole.seconds += turns.first.seconds
        for site in sites:
            plain, sparse = (_per_pass(clock[site.name], site) for clock in clocks)
            dense[site.name] += plain
            ratios[site.name].append(median(s / p for p, s in zip(plain, sparse, strict=True)))
    middle = {name: median(values) for name, values in dense.items()}
    table = {name: [ratio * middle[name] for ratio in every] for name, every in ratios.items()}
    return Table(whole.ms, middle, table)


def rehearse(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    levels: Mapping[str, Pattern],
    seconds: float = math.inf,
) -> float:
    """Time of the whole model with trial weights at these levels (other layers dense) over its dense time."""
    packed = [_trial(site, levels[site.name]) if site.name in levels else site.module for site in sites]
    return in_turn(model, sites, packed, batches, seconds, "trying the choice").ratio


def in_turn(
    model: nn.Module,
    sites: Sequence[Site],
    modules: Sequence[nn.Module],
    batches: Sequence[Batch],
    seconds: float = math.inf,
    label: str = "measuring",
) -> Turns:
    """The model as it is, and with other modules at the sites; few turns where `seconds` are not enough."""
    turns = Turns()
    with swapped(sites, modules):
        _run(model, batches)
    _run(model, batches)
    for which in laps(2, progress(turns.rounds(WHOLE_SECONDS, seconds), label, AT_MOST)):
        if which == 0:
            turns.first.add(lambda: _run(model, batches))
        else:
            with swapped(sites, modules):
                turns.second.add(lambda: _run(model, batches))
    return turns


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
