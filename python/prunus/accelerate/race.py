"""Dense against its candidates, layer by layer, on the shapes the model really feeds them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.progress import progress
from prunus._tools.timing import Times, rounds
from prunus.accelerate.candidates import CANDIDATES, Layers
from prunus.accelerate.survey import Site
from prunus.nn import SparseLinear

__all__ = ["Milliseconds", "race"]

# The fastest of some passes counts; a bar is shown while they run.
MIN_PASSES, MAX_PASSES, SECONDS = 7, 25, 3.0
# Of |x| . |w|^T: sums in another order, rounded to the dtype, differ by less, a lost or misplaced weight by
# more.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

Shape = tuple[int, ...]
Call = tuple[Shape, torch.dtype]
# By id(site), then "dense" or the word of a candidate.
Milliseconds = dict[int, dict[str, float]]


class _Racer:
    def __init__(self, site: Site, layers: dict[str, SparseLinear]) -> None:
        self.site = site
        self.forwards = {"dense": site.module.forward}
        self.forwards |= {word: layer.forward for word, layer in layers.items()}
        self.times = {word: {s: Times() for s in site.inputs} for word in self.forwards}

    def lap(self, word: str, x: dict[Call, Tensor]) -> None:
        if word in self.forwards:
            with self.site.as_called():
                for shape, times in self.times[word].items():
                    times.add(partial(self.forwards[word], x[shape, self.site.dtype]))

    def ms(self) -> dict[str, float]:
        return {
            word: sum(times.best_ms * self.site.inputs[shape] for shape, times in of.items())
            for word, of in self.times.items()
        }

    @property
    def kind(self) -> Any:
        """Layers of one kind take as long: what differs between their times is the machine's noise."""
        site = self.site
        zeros = round(site.sparsity or 0.0, 2)
        return site.shape, frozenset(site.inputs.items()), site.dtype, site.autocast, zeros


def race(sites: list[Site], candidates: Layers) -> Milliseconds:
    """Milliseconds of every plain layer over all its recorded calls: dense, and each of its candidates.

    Whole passes in model order, dense and candidates in turn: as in the model, a layer finds in the caches
    what the layers before it left there, not its own weight from a moment ago. A candidate whose answer is
    wrong leaves the race (and `candidates`); a layer that loses all so gets a reason.
    """
    sites = [site for site in sites if site.inputs and site.plain]
    generator = torch.Generator().manual_seed(0)
    calls = dict.fromkeys((shape, site.dtype) for site in sites for shape in site.inputs)
    x = {call: torch.randn(call[0], generator=generator).to(call[1]) for call in calls}
    for site in sites:
        if id(site) in candidates:
            _drop_wrong(site, candidates[id(site)], [x[shape, site.dtype] for shape in site.inputs])
    racers = [_Racer(site, candidates.get(id(site), {})) for site in sites]
    words = [word for word in ("dense", *CANDIDATES) if any(word in racer.forwards for racer in racers)]
    if len(words) < 2:
        return {}
    seconds = SECONDS * len(words) / 2
    for i in progress(rounds(seconds, MIN_PASSES, MAX_PASSES), "measuring", MAX_PASSES):
        for word in words if i % 2 == 0 else reversed(words):
            for racer in racers:
                racer.lap(word, x)
    return _pooled(racers)


def _pooled(racers: list[_Racer]) -> Milliseconds:
    """Per kind of layer the fastest of its layers, for all of them: blocks of a model are chosen alike."""
    best: dict[Any, dict[str, float]] = {}
    for racer in racers:
        of_kind = best.setdefault(racer.kind, {})
        for word, ms in racer.ms().items():
            of_kind[word] = min(ms, of_kind.get(word, ms))
    return {id(racer.site): {word: best[racer.kind][word] for word in racer.times} for racer in racers}


def _drop_wrong(site: Site, layers: dict[str, SparseLinear], inputs: list[Tensor]) -> None:
    for word in list(layers):
        with site.as_called():
            answers = [_Answer(site.module, layers[word], x) for x in inputs]
        site.errors[word] = max(answer.error for answer in answers)
        found = (answer.why_wrong(CANDIDATES[word].error) for answer in answers)
        reason = next((reason for reason in found if reason), "")
        if reason:
            del layers[word]
            site.reason = "" if layers else reason


class _Answer:
    """What a dense layer and its packed form say to x."""

    def __init__(self, dense: nn.Module, packed: SparseLinear, x: Tensor) -> None:
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
        weight = torch.from_numpy(self.packed.packed_weight.to_dense())
        bias = None if self.packed.bias is None else self.packed.bias.float().abs()
        scale = nn.functional.linear(self.x.float().abs(), weight.abs(), bias)
        difference = (self.expected.float() - self.got.float()).abs()
        wrong = ~(difference <= TOLERANCES[self.expected.dtype] * scale + 1e-30)
        # NaN or infinite weights disagree here too: a skipped zero does not spread them.
        return f"answers differ at {int(wrong.sum())} of {wrong.numel()} outputs" if bool(wrong.any()) else ""
