"""Dense against sparse, layer by layer, on the shapes the model really feeds them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from prunus._tools.progress import progress
from prunus._tools.timing import Times, rounds
from prunus.accelerate.survey import Site
from prunus.nn import SparseLinear

__all__ = ["Layers", "Milliseconds", "race"]

# A median needs some passes; a bar is shown while they run.
MIN_PASSES, MAX_PASSES, SECONDS = 7, 25, 3.0
# Of |x| . |w|^T: sums in another order, rounded to the dtype, differ by less, a lost or misplaced weight by
# more.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

Shape = tuple[int, ...]
Call = tuple[Shape, torch.dtype]
# By id(site).
Layers = dict[int, SparseLinear]
Milliseconds = dict[int, tuple[float, float | None]]  # dense; sparse, None without a candidate


class _Racer:
    def __init__(self, site: Site, sparse: SparseLinear | None) -> None:
        self.site = site
        self.forwards = [site.module.forward, *([sparse.forward] if sparse is not None else [])]
        self.times: list[dict[Shape, Times]] = [{s: Times() for s in site.inputs} for _ in self.forwards]

    def lap(self, which: int, x: dict[Call, Tensor]) -> None:
        if which < len(self.forwards):
            with self.site.as_called():
                for shape, times in self.times[which].items():
                    times.add(partial(self.forwards[which], x[shape, self.site.dtype]))

    def ms(self, which: int) -> float:
        return sum(times.ms * self.site.inputs[shape] for shape, times in self.times[which].items())


def race(sites: list[Site], candidates: Layers) -> Milliseconds:
    """Milliseconds of every plain layer over all its recorded calls: dense and, for candidates, sparse.

    Whole passes in model order, dense and sparse in turn: as in the model, a layer finds in the caches what
    the layers before it left there, not its own weight from a moment ago. A candidate whose answer is wrong
    gets a reason and does not race.
    """
    sites = [site for site in sites if site.inputs and site.plain]
    generator = torch.Generator().manual_seed(0)
    calls = dict.fromkeys((shape, site.dtype) for site in sites for shape in site.inputs)
    x = {call: torch.randn(call[0], generator=generator).to(call[1]) for call in calls}
    racers = []
    for site in sites:
        layer = candidates.get(id(site))
        if layer is not None:
            inputs = (x[shape, site.dtype] for shape in site.inputs)
            with site.as_called():
                found = (_check_answer(site.module, layer, given) for given in inputs)
                site.reason = next((reason for reason in found if reason), "")
        racers.append(_Racer(site, None if site.reason else layer))
    if any(len(racer.forwards) > 1 for racer in racers):
        for i in progress(rounds(SECONDS, MIN_PASSES, MAX_PASSES), "measuring", MAX_PASSES):
            for which in (0, 1) if i % 2 == 0 else (1, 0):
                for racer in racers:
                    racer.lap(which, x)
        return {id(r.site): (r.ms(0), r.ms(1) if len(r.forwards) > 1 else None) for r in racers}
    return {}


def _check_answer(dense: nn.Module, sparse: SparseLinear, x: Tensor) -> str:
    """Why the packed layer's answer cannot be trusted; "" when it agrees with the dense one."""
    expected, got = dense.forward(x), sparse.forward(x)
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return f"answers {tuple(got.shape)} {got.dtype} instead of {tuple(expected.shape)} {expected.dtype}"
    weight = torch.from_numpy(sparse.packed_weight.to_dense())
    with torch.autocast("cpu", enabled=False):
        bias = None if sparse.bias is None else sparse.bias.float().abs()
        scale = nn.functional.linear(x.float().abs(), weight.abs(), bias)
    difference = (expected.float() - got.float()).abs()
    wrong = ~(difference <= TOLERANCES[expected.dtype] * scale + 1e-30)
    # NaN or infinite weights disagree here too: a skipped zero does not spread them.
    return f"answers differ at {int(wrong.sum())} of {wrong.numel()} outputs" if bool(wrong.any()) else ""
