"""accelerate_: swap a Linear for its packed form only where that was measured faster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import prunus._core as _core
from prunus._tools.running import Batch, as_batches, check_model, evaluating, module_bytes, output_tensors
from prunus.accelerate.answers import culprits, relative_error
from prunus.accelerate.candidates import PRECISIONS, Layers, pack_candidates
from prunus.accelerate.fused import fuse_faster
from prunus.accelerate.race import Milliseconds, race
from prunus.accelerate.report import AccelerateReport
from prunus.accelerate.survey import MIN_SPARSITY, Site, recording, survey
from prunus.families import FilterFn
from prunus.nn import SparseLinear
from prunus.nn.fuse import Fusion
from prunus.prune.fold import folded

__all__ = ["AccelerateReport", "accelerate_"]

# Its fast path hands the weights of the layer to one fused kernel; without it linear1 and linear2 are called.
FAST_PATH = "not after torch.backends.mha.set_fastpath_enabled(False)"

# By precision: the relative error of the model's outputs that rounding alone does not explain.
MOST_ERROR = {"float32": 0.05, "bfloat16": 0.1, "int8": 0.3}

# By id(site): the layer that takes its place, and the word for it.
Chosen = dict[int, tuple[str, SparseLinear]]


def accelerate_(
    model: nn.Module,
    example_inputs: Any,
    precision: str = "float32",
    min_speedup: float = 1.05,
    filter_fn: FilterFn | None = None,
    max_error: float | None = None,
    trainable: bool = False,
) -> AccelerateReport:
    """Convert, in place, each Linear whose packed form is measured faster on the shapes it really sees.

    example_inputs: a tensor, tuple, dict or BatchEncoding, or a list of such batches; use the shapes of
    production, because what is faster depends on the number of tokens. precision: how far layers may round.
    "float32" keeps the arithmetic: pruned layers race in their own pattern. "bfloat16" and "int8" add their
    values stored so, and products in that precision, for which a layer need not be pruned (format "dot" of
    `prunus.pack`; int8 quantises the activations of each token); what "int8" allows includes "bfloat16".
    min_speedup: the fastest candidate is taken when dense ms / its ms, the fastest of alternating runs with
    torch's current threads and of all layers of one shape and sparsity, reaches it.
    filter_fn(module, name) -> bool: False leaves a layer dense. `transformers` Conv1D counts as Linear,
    and so does a layer masked by `torch.nn.utils.prune` or `torch.ao.pruning`. max_error: the relative error
    (L2) of the model's outputs that is allowed (None: 0.05, 0.1 for bfloat16, 0.3 for int8); layers that push
    it beyond (a forward that asks whether its child is an nn.Linear) stay dense, and the report names them.
    trainable: the weights of packed layers are parameters (`SparseLinear.values`), and what is measured is
    forward and backward; precision must be "float32", nothing is fused, and optimisers are made afterwards.
    Models may be float32, bfloat16 or float16, and may run under `torch.autocast("cpu")`: accelerate them
    under it too.
    Then the activations, gates and residual sums around packed layers of known families are fused (`fuse_`)
    where that is not slower.
    Layers that share a weight (but, below float32, with an embedding: they get a copy of their own), have
    hooks, are unused by the inputs, or whose weight the model reads directly stay dense, and the report says
    so. An error leaves the model as it was.

    Raises TypeError (model, inputs of another kind) and ValueError (precision, min_speedup, max_error, no
    Linear in the model).

    >>> import torch, prunus
    >>> model = torch.nn.Sequential(torch.nn.Linear(256, 256))
    >>> _ = model[0].weight.data.mul_(torch.rand(256, 256) > 0.95)
    >>> report = prunus.accelerate_(model, torch.ones(64, 256), min_speedup=0.0)
    >>> type(model[0]).__name__, report.rows[0]["converted"]
    ('SparseLinear', True)
    """
    check_model(model)
    batches = as_batches(example_inputs, "example_inputs")
    limits = _limits(precision, min_speedup, max_error, trainable)
    # Masks of torch.nn.utils.prune and torch.ao.pruning become zeros; layers that stay dense get them back.
    with folded(model):
        return _accelerate(model, batches, limits, filter_fn)


@dataclass(frozen=True)
class Limits:
    """What a layer must bring, and what it may cost."""

    precision: str
    min_speedup: float
    max_error: float
    trainable: bool


def _limits(precision: str, min_speedup: float, max_error: float | None, trainable: bool) -> Limits:
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if trainable and precision != "float32":
        raise ValueError(f"precision: expected float32 for trainable layers, got {precision!r}")
    error = MOST_ERROR[precision] if max_error is None else max_error
    for name, value in (("min_speedup", min_speedup), ("max_error", error)):
        if not isinstance(value, (int, float)) or not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")
    return Limits(precision, float(min_speedup), float(error), bool(trainable))


@dataclass(frozen=True)
class Trial:
    """A model, its layers, and what it answered with all of them dense."""

    model: nn.Module
    sites: list[Site]
    batches: list[Batch]
    expected: list[dict[str, Tensor]]

    def put(self, chosen: Chosen) -> None:
        """The packed layers of `chosen`, every other as it came."""
        for site in self.sites:
            site.put(chosen[id(site)][1] if id(site) in chosen else site.module)

    def error(self) -> float:
        """Of the model's outputs as it is now."""
        return relative_error(
            self.expected, [output_tensors(batch.run(self.model)) for batch in self.batches]
        )


def _accelerate(
    model: nn.Module, batches: list[Batch], limits: Limits, filter_fn: FilterFn | None
) -> AccelerateReport:
    exact = limits.precision == "float32"
    sites = survey(model, filter_fn, at_least=MIN_SPARSITY if exact else 0.0, copies=not exact)
    if not sites:
        raise ValueError("model: expected at least one Linear layer, got none")
    bytes_before = module_bytes(model)
    with evaluating(model):
        with recording(sites):
            expected = [output_tensors(batch.run(model)) for batch in batches]
        for site in sites:
            if not site.inputs:
                site.reason = site.reason or "not called by example_inputs"
        free = [site for site in sites if not site.reason]
        candidates = pack_candidates(free, limits.precision, limits.trainable)
        times = race(sites, candidates, limits.trainable)
        chosen = _choose(sites, candidates, times, limits.min_speedup)
        error = _commit(Trial(model, sites, batches, expected), chosen, limits.max_error)
        fused, error = _fuse(Trial(model, sites, batches, expected), error, limits.max_error)
    for site in sites:
        if id(site) in chosen:
            chosen[id(site)][1].train(site.module.training)
    rows = [_row(site, times.get(id(site), {}), chosen.get(id(site))) for site in sites]
    summary = _summary(model, rows, bytes_before, error)
    return AccelerateReport(rows, summary | {"fused": fused, "precision": limits.precision})


def _choose(sites: list[Site], candidates: Layers, times: Milliseconds, min_speedup: float) -> Chosen:
    chosen = {}
    for site in sites:
        ms = dict(times.get(id(site), {}))
        dense = ms.pop("dense", 0.0)
        if not ms:
            continue
        word = min(ms, key=lambda word: ms[word])
        if dense >= min_speedup * ms[word]:
            chosen[id(site)] = word, candidates[id(site)][word]
        else:
            site.reason = "measured slower" if ms[word] >= dense else f"gain below {min_speedup:.2f}x"
    return chosen


def _commit(trial: Trial, chosen: Chosen, max_error: float) -> float:
    """Swap the layers in, run the model, take back what it cannot live with. Errors undo everything."""
    try:
        trial.put(chosen)
        while True:
            try:
                error = trial.error()
                break
            except AttributeError as raised:
                if not _take_back(trial.sites, chosen, raised):
                    raise
        if error > max_error:
            error = _blame(trial, chosen, max_error)
        return error
    except BaseException:
        trial.put({})
        raise


def _blame(trial: Trial, chosen: Chosen, max_error: float) -> float:
    """Take back the layers with which the model answers otherwise; all of them where that does not help."""

    def error_of(some: Sequence[Site]) -> float:
        trial.put({id(site): chosen[id(site)] for site in some})
        return trial.error()

    converted = [site for site in trial.sites if id(site) in chosen]
    guilty = culprits(converted, error_of, max_error)
    left = [site for site in converted if all(site is not other for other in guilty)]
    error = error_of(left)
    if error > max_error:
        guilty, error = converted, error_of([])
    for site in guilty:
        site.reason = f"the model's outputs change by more than {max_error:g} with it"
        del chosen[id(site)]
    return error


def _fuse(trial: Trial, error: float, max_error: float) -> tuple[list[dict[str, Any]], float]:
    """What was fused, and the error of the outputs after it. Errors undo everything."""
    found: list[tuple[Fusion, dict[str, Any]]] = []
    try:
        found = fuse_faster(trial.model, trial.sites)
        after = trial.error() if found else error
        if after > max(max_error, error):
            for fusion, _ in found:
                fusion.put(fusion.original)
            return [], error
    except BaseException:
        for fusion, _ in found:
            fusion.put(fusion.original)
        trial.put({})
        raise
    return [row for _, row in found], after


def _take_back(sites: list[Site], chosen: Chosen, error: AttributeError) -> bool:
    """Some models read `layer.weight` (T5's wo, torch's encoder fast path): such layers, and all with the
    same attribute name in the same kind of parent, become dense again. False: the error is another."""
    reads = error.obj
    culprits = [site for site in sites if id(site) in chosen and reads is chosen[id(site)][1]]
    kinds = {(type(parent), leaf) for site in culprits for parent, leaf in site.places}
    for site in sites:
        if id(site) in chosen and kinds & {(type(parent), leaf) for parent, leaf in site.places}:
            site.reason = f"the model reads its .{error.name}"
            if any(isinstance(parent, nn.TransformerEncoderLayer) for parent, _ in site.places):
                site.reason += f" ({FAST_PATH})"
            site.put(site.module)
            del chosen[id(site)]
    return bool(culprits)


def _row(site: Site, ms: dict[str, float], chosen: tuple[str, SparseLinear] | None) -> dict[str, Any]:
    word, layer = chosen if chosen is not None else ("sparse" if site.sparse else "dense", None)
    dense = ms.get("dense")
    others = [value for key, value in ms.items() if key != "dense"]
    best = ms[word] if layer is not None else min(others, default=None)
    return {
        "name": site.name,
        "shape": site.shape or None,
        "sparsity": site.sparsity,
        "m": ", ".join(f"{m:,}" for m in site.tokens) or None,
        "dense_ms": dense,
        "sparse_ms": min((value for key, value in ms.items() if key.startswith("sparse")), default=None),
        "bfloat16_ms": ms.get("bfloat16"),
        "int8_ms": ms.get("int8"),
        "speedup": dense / best if dense is not None and best else None,
        "runs": word,
        "error": site.errors.get(word) if layer is not None else None,
        "converted": layer is not None,
        "reason": "" if layer is not None else site.reason,
        "bytes_before": module_bytes(site.module),
        "bytes_after": module_bytes(layer if layer is not None else site.module),
    }


def _summary(model: nn.Module, rows: list[dict[str, Any]], bytes_before: int, error: float) -> dict[str, Any]:
    timed = [row for row in rows if row["dense_ms"] is not None]
    before = sum(row["dense_ms"] for row in timed)
    after = sum(
        row["dense_ms"] / row["speedup"] if row["converted"] and row["speedup"] else row["dense_ms"]
        for row in timed
    )
    return {
        "layers": len(rows),
        "converted": sum(row["converted"] for row in rows),
        "linear_ms_before": before if timed else None,
        "linear_ms_after": after if timed else None,
        "linear_speedup": before / after if timed and after > 0 else None,
        "bytes_before": bytes_before,
        "bytes_after": module_bytes(model),
        "relative_error": error,
        "threads": torch.get_num_threads(),
        "isa": _core.active_isa(),
    }
