"""The fusions around packed layers that are not slower, on the shapes the model really feeds them."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from prunus._tools.progress import progress
from prunus._tools.timing import Times, rounds
from prunus.accelerate.survey import Site
from prunus.nn.fuse import Fusion, fusions

__all__ = ["fuse_faster"]

MIN_PASSES, MAX_PASSES, SECONDS = 7, 25, 2.0
# A fusion saves passes over memory and adds none: a clear loss speaks against it, not the noise of a clock.
SLACK = 1.02


class _Racer:
    def __init__(self, fusion: Fusion, site: Site) -> None:
        self.fusion = fusion
        self.calls = [
            (tuple(argument.to(site.dtype) for argument in fusion.arguments(shape)), count)
            for shape, count in site.inputs.items()
        ]
        self.times = [[Times() for _ in self.calls] for _ in range(2)]

    def lap(self, which: int) -> None:
        module: nn.Module = (self.fusion.original, self.fusion.fused)[which]
        for (arguments, _), times in zip(self.calls, self.times[which], strict=True):
            times.add(partial(module, *arguments))

    def ms(self, which: int) -> float:
        return sum(t.ms * count for t, (_, count) in zip(self.times[which], self.calls, strict=True))


def fuse_faster(model: nn.Module, sites: list[Site]) -> list[tuple[Fusion, dict[str, Any]]]:
    """Put in every fusion that is not measured slower, over all recorded calls of the layer that sees its
    input; each with a row (name, kind, ms_before, ms_after)."""
    seen = {site.name: site for site in sites if site.inputs}
    racers = [_Racer(fusion, seen[fusion.entry]) for fusion in fusions(model) if fusion.entry in seen]
    if racers:
        for i in progress(rounds(SECONDS, MIN_PASSES, MAX_PASSES), "measuring fusions", MAX_PASSES):
            for which in (0, 1) if i % 2 == 0 else (1, 0):
                for racer in racers:
                    racer.lap(which)
    found = []
    for racer in racers:
        fusion, before, after = racer.fusion, racer.ms(0), racer.ms(1)
        if after <= SLACK * before:
            row = {"name": fusion.name, "kind": fusion.kind, "ms_before": before, "ms_after": after}
            found.append((fusion, row))
    for fusion, _ in found:
        fusion.put(fusion.fused)
    return found
