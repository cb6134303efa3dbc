"""Layers that alone are not faster than dense, but are with what is fused into them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunus._tools.timing import Racer, take_laps
from prunus.accelerate.fused import MAX_PASSES, MIN_PASSES, SECONDS, racer_for
from prunus.accelerate.race import kind_of
from prunus.accelerate.survey import Site
from prunus.nn import SparseLinear, TwoFourLinear
from prunus.nn.fuse import Fusion, fusions

__all__ = ["NEAR", "Chosen", "Joined", "faster_together"]

# A layer that has this part of the dense speed may win by what a fusion saves: an activation or a sum over
# its output, which takes as long as half of the product where rows are short.
NEAR = 0.6

# By id(site): the layer that takes its place, and the word for it.
Chosen = dict[int, tuple[str, SparseLinear | TwoFourLinear]]


@dataclass(frozen=True)
class Joined:
    """A fusion that is faster than what it stands for with dense layers; ms of both."""

    name: str
    layers: Chosen
    dense_ms: float
    fused_ms: float


def faster_together(model: nn.Module, sites: list[Site], near: Chosen, min_speedup: float) -> list[Joined]:
    """The fusions that make layers of `near`, which are in the model now, faster than dense.

    Times are the fastest of some runs, and of all fusions of one kind and shape.
    """
    of_layer = {id(near[id(site)][1]): site for site in sites if id(site) in near}
    seen = {site.name: site for site in sites if site.inputs}
    groups = []
    for fusion in fusions(model) if near else []:
        members = [of_layer[id(m)] for m in fusion.original.modules() if id(m) in of_layer]
        if members and fusion.entry in seen:
            groups.append((fusion, members))
    racers = [_racer(fusion, members, seen[fusion.entry]) for fusion, members in groups]
    if racers:
        take_laps(racers, SECONDS, MIN_PASSES, MAX_PASSES, "measuring fusions with dense layers")
    best: dict[Any, tuple[float, float]] = {}
    for (fusion, members), racer in zip(groups, racers, strict=True):
        key = _kind(fusion, members)
        ms = racer.best_ms(0), racer.best_ms(1)
        before = best.get(key, ms)
        best[key] = min(ms[0], before[0]), min(ms[1], before[1])
    found = []
    for fusion, members in groups:
        dense, fused = best[_kind(fusion, members)]
        if dense >= min_speedup * fused:
            found.append(Joined(fusion.name, {id(site): near[id(site)] for site in members}, dense, fused))
    return found


def _kind(fusion: Fusion, members: list[Site]) -> Any:
    return fusion.kind, tuple(kind_of(site) for site in members)


def _racer(fusion: Fusion, members: list[Site], entry: Site) -> Racer:
    """With its dense layers against the fused one."""
    return racer_for(_with_dense(fusion.original, members), fusion, entry, entry.as_called)


def _with_dense(module: nn.Module, members: list[Site]) -> nn.Module:
    """`module` as it was; itself it holds the packed layers now."""
    dense = {leaf: site.module for site in members for _, leaf in site.places}
    twin = copy.copy(module)
    twin.__dict__["_modules"] = {
        name: dense.get(name, child) if isinstance(child, SparseLinear) else child
        for name, child in module._modules.items()
    }
    return twin
