"""Dense against sparse, layer by layer, on the shapes the model really feeds them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from prunus._tools.timing import Racer, take_laps
from prunus.accelerate.survey import Site
from prunus.nn import SparseLinear

__all__ = ["Milliseconds", "SparseLayers", "race"]

# A median needs some passes; a bar is shown while they run.
MIN_PASSES, MAX_PASSES, SECONDS = 7, 25, 3.0
# Of |x| . |w|^T: sums in another order, rounded to the dtype, differ by less, a lost or misplaced weight by
# more.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

Shape = tuple[int, ...]
# By id(site).
SparseLayers = dict[int, SparseLinear]
Milliseconds = dict[int, tuple[float, float | None]]  # dense; sparse, None without a candidate


def race(sites: list[Site], candidates: SparseLayers) -> Milliseconds:
    """Milliseconds of every plain layer over all its recorded calls: dense and, for candidates, sparse.

    Of layers and their packed forms in turn, in model order (`take_laps`). A candidate whose
    answer is wrong gets a reason and does not race.
    """
    sites = [site for site in sites if site.inputs and site.plain]
    generator = torch.Generator().manual_seed(0)
    calls = dict.fromkeys((shape, site.dtype) for site in sites for shape in site.inputs)
    x = {call: torch.randn(call[0], generator=generator).to(call[1]) for call in calls}
    racers = []
    for site in sites:
        given = [x[shape, site.dtype] for shape in site.inputs]
        layer = candidates.get(id(site))
        if layer is not None:
            with site.as_called():
                found = (_check_answer(site.module, layer, one) for one in given)
                site.reason = next((reason for reason in found if reason), "")
        forwards = [site.module.forward, *([layer.forward] if layer is not None and not site.reason else [])]
        contenders = [[partial(forward, one) for one in given] for forward in forwards]
        racers.append(Racer(contenders, list(site.inputs.values()), site.as_called))
    if not any(len(racer.contenders) > 1 for racer in racers):
        return {}
    take_laps(racers, SECONDS, MIN_PASSES, MAX_PASSES, "measuring")
    return {
        id(site): (racer.ms(0), racer.ms(1) if len(racer.contenders) > 1 else None)
        for site, racer in zip(sites, racers, strict=True)
    }


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
