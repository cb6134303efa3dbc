"""The fusions around packed layers that are not slower, on the shapes the model really feeds them."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from prunus._tools.timing import Racer, take_laps
from prunus.accelerate.survey import Site
from prunus.nn.fuse import Fusion, fusions

__all__ = ["fuse_faster"]

MIN_PASSES, MAX_PASSES, SECONDS = 7, 25, 2.0
# A fusion saves passes over memory and adds none: a clear loss speaks against it, not the noise of a clock.
SLACK = 1.02


def _racer(fusion: Fusion, site: Site) -> Racer:
    """The modules as they are against the fused one, on what the layer saw."""
    given = [[argument.to(site.dtype) for argument in fusion.arguments(shape)] for shape in site.inputs]
    modules: tuple[nn.Module, nn.Module] = (fusion.original, fusion.fused)
    calls = [[partial(module, *arguments) for arguments in given] for module in modules]
    return Racer(calls, list(site.inputs.values()))


def fuse_faster(
    model: nn.Module, sites: list[Site], known: dict[str, tuple[float, float]]
) -> list[tuple[Fusion, dict[str, Any]]]:
    """Put in every fusion that is not measured slower, over all recorded calls of the layer that sees its
    input; each with a row (name, kind, ms_before, ms_after). known: those measured already, with their ms."""
    seen = {site.name: site for site in sites if site.inputs}
    all_fusions = [fusion for fusion in fusions(model) if fusion.entry in seen]
    racers = {f.name: _racer(f, seen[f.entry]) for f in all_fusions if f.name not in known}
    if racers:
        take_laps(list(racers.values()), SECONDS, MIN_PASSES, MAX_PASSES, "measuring fusions")
    found = []
    for fusion in all_fusions:
        racer = racers.get(fusion.name)
        before, after = (racer.ms(0), racer.ms(1)) if racer is not None else known[fusion.name]
        if fusion.name in known or after <= SLACK * before:
            row = {"name": fusion.name, "kind": fusion.kind, "ms_before": before, "ms_after": after}
            found.append((fusion, row))
    for fusion, _ in found:
        fusion.put(fusion.fused)
    return found
