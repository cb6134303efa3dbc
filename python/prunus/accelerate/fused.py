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


def fuse_faster(model: nn.Module, sites: list[Site], fused: list[Fusion]) -> list[dict[str, Any]]:
    """Put in every fusion that is not measured slower, over all recorded calls of the layer that sees its
    input; `fused` gets them first. A row (name, kind, ms_before, ms_after) for each."""
    seen = {site.name: site for site in sites if site.inputs}
    known = [fusion for fusion in fusions(model) if fusion.entry in seen]
    racers = [_racer(fusion, seen[fusion.entry]) for fusion in known]
    if racers:
        take_laps(racers, SECONDS, MIN_PASSES, MAX_PASSES, "measuring fusions")
    rows = []
    for fusion, racer in zip(known, racers, strict=True):
        before, after = racer.ms(0), racer.ms(1)
        if after <= SLACK * before:
            rows.append({"name": fusion.name, "kind": fusion.kind, "ms_before": before, "ms_after": after})
            fused.append(fusion)
    for fusion in fused:
        fusion.put(fusion.fused)
    return rows
