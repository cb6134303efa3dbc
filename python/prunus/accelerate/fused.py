"""The fusions around packed layers that are not slower, on the shapes the model really feeds them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from prunus._tools.timing import Racer, take_laps
from prunus.accelerate.survey import Site
from prunus.nn.fuse import Fusion, fusions

__all__ = ["fuse_faster", "racer_for"]

MIN_PASSES, MAX_PASSES, SECONDS = 7, 25, 2.0
# A fusion saves passes over memory and adds none: a clear loss speaks against it, not the noise of a clock.
SLACK = 1.02


def racer_for(
    original: nn.Module,
    fusion: Fusion,
    site: Site,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Racer:
    """What a fusion stands for against the fused module, on what the layer that sees the input saw."""
    given = [
        [argument.to(site.device, site.dtype) for argument in fusion.arguments(shape)]
        for shape in site.inputs
    ]
    modules: tuple[nn.Module, nn.Module] = (original, fusion.fused)
    calls = [[partial(module, *arguments) for arguments in given] for module in modules]
    return Racer(calls, list(site.inputs.values()), around, site.device)


def fuse_faster(
    model: nn.Module, sites: list[Site], known: dict[str, tuple[float, float]], fused: list[Fusion]
) -> list[dict[str, Any]]:
    """Put in every fusion that is not measured slower, over all recorded calls of the layer that sees its
    input; `fused` gets them first. A row (name, kind, ms_before, ms_after) for each.

    known: those measured already, with their ms."""
    seen = {site.name: site for site in sites if site.inputs}
    found = [fusion for fusion in fusions(model) if fusion.entry in seen]
    racers = {f.name: racer_for(f.original, f, seen[f.entry]) for f in found if f.name not in known}
    if racers:
        take_laps(list(racers.values()), SECONDS, MIN_PASSES, MAX_PASSES, "measuring fusions")
    rows = []
    for fusion in found:
        racer = racers.get(fusion.name)
        before, after = (racer.ms(0), racer.ms(1)) if racer is not None else known[fusion.name]
        if fusion.name in known or after <= SLACK * before:
            rows.append({"name": fusion.name, "kind": fusion.kind, "ms_before": before, "ms_after": after})
            fused.append(fusion)
    for fusion in fused:
        fusion.put(fusion.fused)
    return rows
