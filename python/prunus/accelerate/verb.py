"""accelerate_: swap a Linear for its packed form only where that was measured faster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import prunus._core as _core
from prunus._tools.interrupts import OneInterrupt
from prunus._tools.running import (
    Batch,
    as_batches,
    check_model,
    device_of,
    device_word,
    evaluating,
    module_bytes,
    output_tensors,
)
from prunus.accelerate.attention import AttentionCalls, race_attention
from prunus.accelerate.candidates import PRECISIONS, Layers, PackedLayer, pack_candidates
from prunus.accelerate.experts import mixtures_of, race_mixtures, seeing
from prunus.accelerate.race import Milliseconds, race
from prunus.accelerate.report import AccelerateReport
from prunus.accelerate.survey import MIN_SPARSITY, Site, recording, survey
from prunus.accelerate.together import NEAR, Chosen, Joined, faster_together
from prunus.accelerate.trial import Trial, attend, commit, fuse
from prunus.families import FilterFn, weight_count
from prunus.nn.attention import observing
from prunus.prune.fold import folded
from prunus.shrink import save_ordinarily

__all__ = ["AccelerateReport", "accelerate_"]

# By precision: the relative error of the model's outputs that rounding alone does not explain.
MOST_ERROR = {"float32": 0.05, "bfloat16": 0.1, "int8": 0.3}


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
    `prunus.pack`; int8 quantises the activations of each token); what "int8" allows includes "bfloat16",
    and the products of pruned layers are tried with their zeros stored too.
    min_speedup: the fastest candidate is taken when dense ms / its ms, the fastest of alternating runs with
    torch's current threads and of all layers of one shape and sparsity, reaches it.
    filter_fn(module, name) -> bool: False leaves a layer dense. `transformers` Conv1D counts as Linear,
    and so does a layer masked by `torch.nn.utils.prune` or `torch.ao.pruning`, and each matrix of the experts
    of a mixture (see below). max_error: the relative error
    (L2) of the model's outputs that is allowed (None: 0.05, 0.1 for bfloat16, 0.3 for int8); layers that push
    it beyond (a forward that asks whether its child is an nn.Linear) stay dense, and the report names them.
    trainable: the weights of packed layers are parameters (`SparseLinear.values`), and what is measured is
    forward and backward; precision must be "float32", nothing is fused, and optimisers are made afterwards.
    Models may be float32, bfloat16 or float16, and may run under `torch.autocast`: accelerate them under it
    too. On a GPU the inputs follow the model, times are those of the device, and what races is "sparse" in
    format warp (bfloat16 or float16 as the weight, from "bfloat16" on float32 weights too, and int8) for few
    tokens, and torch's own 2:4 products for many, where every four inputs have at most two weights. Many
    tokens of other zeros stay dense there: `shrink_` makes those faster.
    Attention of `transformers` models races too, theirs ("sdpa") against `prunus.ops.attention`, on CPUs
    with AMX, where bfloat16 is allowed or the model is bfloat16 already.
    Then the activations, gates and residual sums around packed layers of known families are fused (`fuse_`)
    where that is not slower; a layer that alone is a little slower is taken where it wins with them.
    Experts that `transformers` keeps in 3-D parameters (Mixtral, Qwen3-MoE) race matrix by matrix, named like
    "mlp.experts.down_proj.3", on the tokens that each gets, then those of a block together. Where that
    wins, `prunus.nn.Experts` takes their place. What no token of the examples asked stays a dense layer in
    it: give enough of them. Left as they are: experts with biases or stored transposed (gpt-oss), on a GPU,
    or with trainable layers.
    Layers that share a weight (but, below float32, with an embedding: they get a copy of their own), have
    hooks, belong to a low-rank adapter, are unused by the inputs, or whose weight the model reads directly
    stay dense, and the report says so. `save_pretrained` of a `transformers` model then writes the packed
    layers as dense ones. An error leaves the model as it was.

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
    device = device_of(model)
    batches = [batch.to(device) for batch in as_batches(example_inputs, "example_inputs")]
    limits = _limits(precision, min_speedup, max_error, trainable)
    # Masks of torch.nn.utils.prune and torch.ao.pruning become zeros; layers that stay dense get them back.
    with OneInterrupt(), folded(model):
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


def _accelerate(
    model: nn.Module, batches: list[Batch], limits: Limits, filter_fn: FilterFn | None
) -> AccelerateReport:
    exact = limits.precision == "float32"
    at_least = MIN_SPARSITY if exact else 0.0
    mixtures = mixtures_of(model, filter_fn, at_least, limits.trainable)
    sites = survey(model, filter_fn, at_least, copies=not exact)
    sites += [site for mixture in mixtures for site in mixture.sites]
    if not sites:
        raise ValueError("model: expected at least one Linear layer, got none")
    bytes_before = module_bytes(model)
    with evaluating(model):
        calls = AttentionCalls()
        with recording(sites), seeing(mixtures), observing(model, calls.note):
            expected = [output_tensors(batch.run(model)) for batch in batches]
        for site in sites:
            if not site.inputs:
                site.reason = site.reason or "not called by example_inputs"
        free = [site for site in sites if not site.reason]
        candidates = pack_candidates(free, limits.precision, limits.trainable)
        times = race(sites, candidates, limits.trainable)
        chosen = _choose(sites, candidates, times, limits.min_speedup)
        together = race_mixtures(mixtures, chosen, limits.min_speedup)
        attention = None
        if calls.allowed(exact) and not limits.trainable:
            attention = race_attention(calls, limits.min_speedup)
    trial = Trial(model, sites, batches, expected, mixtures)
    try:
        with evaluating(model):
            # Of training only whole steps of layers are timed.
            joined = [] if limits.trainable else _join(trial, candidates, times, chosen, limits.min_speedup)
            for fusion in joined:
                chosen |= fusion.layers
            error = commit(trial, chosen, limits.max_error)
            fused, error = fuse(trial, error, limits.max_error, joined, chosen)
            attended, error = attend(trial, attention, error, limits.max_error)
        trial.settle(chosen)
        for site in sites:
            if id(site) in chosen:
                chosen[id(site)][1].train(site.module.training)
        rows = [_row(site, times.get(id(site), {}), chosen.get(id(site))) for site in sites]
        summary = _summary(model, rows, bytes_before, error) | {"experts": together}
        if chosen:
            save_ordinarily(model)
    except BaseException:
        trial.undo()
        raise
    return AccelerateReport(rows, summary | {"fused": fused + attended, "precision": limits.precision})


def _choose(sites: list[Site], candidates: Layers, times: Milliseconds, min_speedup: float) -> Chosen:
    chosen = {}
    for site in sites:
        fastest = _fastest(times.get(id(site), {}))
        if fastest is None:
            if candidates.get(id(site)):
                site.reason = site.reason or "takes longer to launch"
            continue
        word, ms, dense = fastest
        if dense >= min_speedup * ms:
            chosen[id(site)] = word, candidates[id(site)][word]
        else:
            site.reason = "measured slower" if ms >= dense else f"gain below {min_speedup:.2f}x"
    return chosen


def _fastest(times: dict[str, float]) -> tuple[str, float, float] | None:
    """The fastest candidate of a layer, its ms, and those of the dense layer; None: nothing raced."""
    others = {word: ms for word, ms in times.items() if word != "dense"}
    if not others:
        return None
    word = min(others, key=lambda word: others[word])
    return word, others[word], times.get("dense", 0.0)


def _join(
    trial: Trial, candidates: Layers, times: Milliseconds, chosen: Chosen, min_speedup: float
) -> list[Joined]:
    """The layers that win by what is fused into them; leaves the model dense."""
    near: Chosen = {}
    for site in trial.sites:
        fastest = None if id(site) in chosen else _fastest(times.get(id(site), {}))
        if fastest is None:
            continue
        word, ms, dense = fastest
        if dense >= NEAR * ms:
            near[id(site)] = word, candidates[id(site)][word]
    trial.put(chosen | near)
    joined = faster_together(trial.model, trial.sites, near, min_speedup)
    trial.put({})
    return joined


def _row(site: Site, ms: dict[str, float], chosen: tuple[str, PackedLayer] | None) -> dict[str, Any]:
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
        "two_four_ms": ms.get("2:4"),
        "bfloat16_ms": ms.get("bfloat16"),
        "int8_ms": min((value for key, value in ms.items() if key.startswith("int8")), default=None),
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
    converted = sum(math.prod(row["shape"]) for row in rows if row["converted"])
    before = sum(row["dense_ms"] for row in timed)
    after = sum(
        row["dense_ms"] / row["speedup"] if row["converted"] and row["speedup"] else row["dense_ms"]
        for row in timed
    )
    return {
        "layers": len(rows),
        "converted": sum(row["converted"] for row in rows),
        "reached": converted / max(weight_count(model), 1),
        "linear_ms_before": before if timed else None,
        "linear_ms_after": after if timed else None,
        "linear_speedup": before / after if timed and after > 0 else None,
        "bytes_before": bytes_before,
        "bytes_after": module_bytes(model),
        "relative_error": error,
        "device": device_word(device_of(model)),
        "threads": torch.get_num_threads(),
        "isa": _core.active_isa(),
    }
