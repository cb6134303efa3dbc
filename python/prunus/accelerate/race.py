"""Dense against its candidates, layer by layer, on the shapes the model really feeds them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.timing import Racer, take_laps
from prunus.accelerate.candidates import (
    CANDIDATES,
    GPU_CANDIDATES,
    Layers,
    PackedLayer,
    candidates_for,
)
from prunus.accelerate.survey import Site
from prunus.nn import SparseLinear

__all__ = ["Milliseconds", "kind_of", "race"]

# The fastest of some passes counts; a bar is shown while they run.
MIN_PASSES, MAX_PASSES, SECONDS = 7, 25, 3.0
# On a GPU what the device takes decides, because launches cost nothing in a CUDA graph; outside of one they
# may make a layer so much slower, not more.
MOST_TO_ISSUE = 1.5
WORDS = tuple(dict.fromkeys(("dense", *CANDIDATES, *GPU_CANDIDATES)))
# Of |x| . |w|^T: sums in another order, rounded to the dtype, differ by less, a lost or misplaced weight by
# more.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

Shape = tuple[int, ...]
# By id(site), then "dense" or the word of a candidate.
Milliseconds = dict[int, dict[str, float]]


def race(sites: list[Site], candidates: Layers, backward: bool = False) -> Milliseconds:
    """Milliseconds of every plain layer over all its recorded calls: dense, and each of its candidates.

    backward: with the gradients of x and of all parameters that want one.

    Of layers and their candidates in turn, in model order (`take_laps`). A candidate whose answer is wrong
    leaves the race (and `candidates`); a layer that loses all so gets a reason.
    """
    sites = [site for site in sites if site.inputs and site.plain]
    generator = torch.Generator().manual_seed(0)
    calls = dict.fromkeys((shape, site.dtype, site.device) for site in sites for shape in site.inputs)
    x = {call: torch.randn(call[0], generator=generator, device="cpu").to(call[2], call[1]) for call in calls}
    for site in sites:
        if id(site) in candidates:
            given = [x[shape, site.dtype, site.device] for shape in site.inputs]
            _drop_wrong(site, candidates[id(site)], given)
    layers = [{"dense": site.module, **candidates.get(id(site), {})} for site in sites]
    words = [word for word in WORDS if any(word in of for of in layers)]
    if len(words) < 2:
        return {}
    racers = []
    for site, of in zip(sites, layers, strict=True):
        given = [x[shape, site.dtype, site.device] for shape in site.inputs]
        run = _forward_and_backward if backward else _forward
        contenders = [[partial(run, of[word], one) for one in given if word in of] for word in words]
        racers.append(Racer(contenders, list(site.inputs.values()), site.as_called, site.device))
    take_laps(racers, SECONDS * len(words) / 2, MIN_PASSES, MAX_PASSES, "measuring")
    return _pooled(
        [
            (site, _milliseconds(racer, [word if word in of else "" for word in words]))
            for site, of, racer in zip(sites, layers, racers, strict=True)
        ]
    )


def _milliseconds(racer: Racer, words: list[str]) -> dict[str, float]:
    """By word, the dense layer first; "": there is none. On a GPU without those that are slow to issue."""
    ms = {word: racer.best_ms(i) for i, word in enumerate(words) if word}
    if racer.device is None:
        return ms
    whole = {word: max(ms[word], racer.issue_ms(i)) for i, word in enumerate(words) if word}
    return {word: ms[word] for word in ms if whole[word] <= MOST_TO_ISSUE * whole["dense"]}


def _forward(layer: nn.Module, x: Tensor) -> object:
    return layer.forward(x)


def _forward_and_backward(layer: nn.Module, x: Tensor) -> object:
    """One step of training; the layer's own gradients stay as they are."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = layer.forward(x)
        wanted = [p for p in layer.parameters() if p.requires_grad]
        return torch.autograd.grad(y, [x, *wanted], torch.ones_like(y))


def _pooled(measured: list[tuple[Site, dict[str, float]]]) -> Milliseconds:
    """Per kind of layer the fastest of its layers, for all of them: blocks of a model are chosen alike."""
    best: dict[Any, dict[str, float]] = {}
    for site, times in measured:
        of_kind = best.setdefault(kind_of(site), {})
        for word, ms in times.items():
            of_kind[word] = min(ms, of_kind.get(word, ms))
    return {id(site): {word: best[kind_of(site)][word] for word in times} for site, times in measured}


def kind_of(site: Site) -> Any:
    """Layers of one kind take as long: what differs between their times is the machine's noise."""
    zeros = round(site.sparsity or 0.0, 2)
    return site.shape, frozenset(site.inputs.items()), site.dtype, site.device, site.autocast, zeros


def _drop_wrong(site: Site, layers: dict[str, PackedLayer], inputs: list[Tensor]) -> None:
    for word in list(layers):
        with site.as_called():
            answers = [_Answer(site.module, layers[word], x) for x in inputs]
        site.errors[word] = max(answer.error for answer in answers)
        found = (answer.why_wrong(candidates_for(site)[word].error) for answer in answers)
        reason = next((reason for reason in found if reason), "")
        if reason:
            del layers[word]
            site.reason = "" if layers else reason


class _Answer:
    """What a dense layer and its packed form say to x."""

    def __init__(self, dense: nn.Module, packed: PackedLayer, x: Tensor) -> None:
        self.packed, self.x = packed, x
        self.expected, self.got = dense.forward(x), packed.forward(x)
        self.kinds = [(tuple(y.shape), y.dtype) for y in (self.expected, self.got)]

    @property
    def error(self) -> float:
        """Relative (L2); infinite where it cannot be told."""
        if self.kinds[0] != self.kinds[1]:
            return math.inf
        norm = float(self.expected.float().norm())
        error = float((self.expected.float() - self.got.float()).norm())
        return error / norm if norm and math.isfinite(error / norm) else (math.inf if error else 0.0)

    def why_wrong(self, allowed: float | None) -> str:
        """Why the packed layer cannot be trusted; "" when it agrees with the dense one. allowed: its relative
        error; None: every output but for sums in another order."""
        if self.kinds[0] != self.kinds[1]:
            (shape, dtype), (got_shape, got_dtype) = self.kinds
            return f"answers {got_shape} {got_dtype} instead of {shape} {dtype}"
        if allowed is not None:
            return "" if self.error <= allowed else f"answers differ by {self.error:.1%}"
        packed = self.packed
        if isinstance(packed, SparseLinear):
            weight = torch.from_numpy(packed.packed_weight.to_dense()).to(self.x.device)
        else:
            weight = packed.dense().float()
        bias = None if self.packed.bias is None else self.packed.bias.float().abs()
        scale = nn.functional.linear(self.x.float().abs(), weight.abs(), bias)
        difference = (self.expected.float() - self.got.float()).abs()
        wrong = ~(difference <= TOLERANCES[self.expected.dtype] * scale + 1e-30)
        # NaN or infinite weights disagree here too: a skipped zero does not spread them.
        return f"answers differ at {int(wrong.sum())} of {wrong.numel()} outputs" if bool(wrong.any()) else ""
