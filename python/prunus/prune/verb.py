"""`prune_`: the verb."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from prunus.allocation import Allocation
from prunus.calibration import calibration_for
from prunus.families import FilterFn, weight_count
from prunus.methods import Magnitude, Method
from prunus.nn.dense import PACKED
from prunus.patterns import NM, Block, Pattern, Unstructured
from prunus.prune.fold import fold
from prunus.prune.journal import Journal
from prunus.prune.report import PruneReport
from prunus.prune.run import GRADIENTS, Run, needed
from prunus.prune.targets import Prunable, find_targets, lists_left_out, read_weights

__all__ = ["fold_targets", "prune_", "prune_and"]

_MAGNITUDE = Magnitude()


def prune_(
    model: nn.Module,
    pattern: Pattern | Mapping[str, Pattern] | Allocation,
    method: Method = _MAGNITUDE,
    calibration: Any = None,
    filter_fn: FilterFn | None = None,
) -> PruneReport:
    """Set weights of `model` to zero, in place and all or nothing: an error leaves it as it was.

    pattern: one for every layer; `Unstructured(s, scope="model")` for one budget over all; an `Allocation`
    that chooses per layer; or a mapping layer name -> pattern (other layers are left alone).
    method: how weights are chosen. calibration: sample batches or a `Calibration`, for methods that need it.
    filter_fn(module, name) -> bool: which Linear (n, k) and Conv1D to prune. By default those inside the
    transformer blocks (all, where the model has none) whose weight is not shared with an embedding; so not
    the embeddings, poolers, output heads and low-rank adapters. A shared weight is pruned and counted once.
    Fused projections (q, k, v or gate, up in one weight) get one budget per part. Masks left by
    `torch.nn.utils.prune`, its norms and parametrizations of the weight are folded in first. Weights:
    float32, float64, float16, bfloat16. With several processes (`torch.distributed`) each gives samples of
    its own: statistics are added up, and all get the same mask.
    Methods that look at inputs leave out what `nn.MultiheadAttention` holds (its weights are read, not
    called). Experts that `transformers` keeps in one 3-D parameter have a budget each, named like
    "mlp.experts.down_proj.3", also for filter_fn (as a Linear); inputs are those of the tokens that asked
    the expert. Experts with biases or stored transposed are for methods that look at weights alone.

    Raises TypeError for arguments of another kind, ValueError when nothing is left to prune, when `method`
    needs a calibration that is missing, when a layer or an expert saw no token, when a weight is NaN. Warns
    (UserWarning) when a list of modules with a tenth of the Linear weights or more is left out.

    >>> from torch import nn
    >>> report = prune_(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), Unstructured(0.75))
    >>> report.summary["zeros"], report.pruned
    (30, ['0', '2'])
    """
    return prune_and(model, pattern, method, calibration, filter_fn)


def prune_and(
    model: nn.Module,
    pattern: Pattern | Mapping[str, Pattern] | Allocation,
    method: Method,
    calibration: Any = None,
    filter_fn: FilterFn | None = None,
    then: Callable[[], object] | None = None,
) -> PruneReport:
    """`prune_` that calls `then` while everything can still be undone."""
    _check(model, pattern, method)
    if filter_fn is None:
        _check_dense(model)
    started = time.perf_counter()
    targets, rows = find_targets(model, filter_fn)
    left_out = lists_left_out(model, rows) if filter_fn is None else []
    targets = _seen(model, targets, needed(method, pattern), rows)
    targets = _fitting(targets, pattern, rows)
    if not targets:
        reasons = "; ".join(f"{row['name']}: {row['note']}" for row in rows[:5])
        raise ValueError(
            f"{'model' if filter_fn is None else 'filter_fn'}: "
            "expected at least one Linear or Conv1D to prune, got none"
            + (f" ({reasons}{', ...' if len(rows) > 5 else ''})" if rows else "")
        )
    with Journal() as journal:
        fold_targets(targets, journal)
        before = {target.name: _zeros(target) for target in targets}
        given = None if calibration is None else calibration_for(model, calibration)
        run = Run(model, targets, method, given)
        run.prune(run.plan(pattern), journal)
        journal.commit(then)
    if left_out:
        warnings.warn(
            f"prune_ left {', '.join(left_out)} as it is: no list of blocks that it knows. "
            "prunus.families.register_family describes one, filter_fn chooses its layers",
            UserWarning,
            stacklevel=3,
        )
    seconds = time.perf_counter() - started
    return _report(targets, before, rows, method, pattern, seconds, weight_count(model))


def _check(model: object, pattern: object, method: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if isinstance(pattern, Mapping):
        unknown = sorted(set(pattern) - {name for name, _ in model.named_modules()})
        if unknown:
            raise ValueError(f"pattern: expected names of layers of the model, got {', '.join(unknown)}")
        for value in pattern.values():
            _check_pattern(value)
    elif not isinstance(pattern, Allocation):
        _check_pattern(pattern)
    if not isinstance(method, Method):
        got = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        raise TypeError(f"method: expected a Method such as Magnitude(), got {got}")


def _check_dense(model: nn.Module) -> None:
    """Packed layers are no Linears: what is left (a pooler, a classifier) is not what is meant."""
    packed = [name for name, module in model.named_modules() if isinstance(module, PACKED)]
    if packed:
        raise ValueError(
            f"model: expected ordinary layers, got {len(packed)} packed ones (the first is {packed[0]}): "
            "prunus.to_dense_(model) makes them ordinary again; a filter_fn prunes others"
        )


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, (Unstructured, NM, Block)):
        kind = type(pattern).__name__
        raise TypeError(f"pattern: expected Unstructured, NM, Block or an Allocation, got {kind}")


def _seen(
    model: nn.Module, targets: list[Prunable], needs: frozenset[str], rows: list[dict[str, Any]]
) -> list[Prunable]:
    """The targets whose statistics can be taken; a row with the reason for every other one."""
    readers = read_weights(model) if needs - GRADIENTS else {}
    seen = []
    for target in targets:
        reason = target.unseen if needs else ""
        if target.name in readers:
            reason = f"{readers[target.name]} reads its weight and never calls it: its inputs are not seen"
        if reason:
            rows.append(target.row("skipped", reason))
        else:
            seen.append(target)
    return seen


def _fitting(targets: list[Prunable], pattern: object, rows: list[dict[str, Any]]) -> list[Prunable]:
    """The targets that `pattern` can be applied to; a row with the reason for every other one."""
    fitting = []
    for target in targets:
        own = pattern.get(target.name) if isinstance(pattern, Mapping) else pattern
        shape = target.shape
        if own is None:
            reason = "no pattern given for it"
        elif isinstance(own, NM) and shape[1] % own.m:
            reason = f"{shape[1]} inputs are not a multiple of {own.m}"
        else:
            fitting.append(target)
            continue
        rows.append(target.row("skipped", reason))
    return fitting


def fold_targets(targets: Iterable[Prunable], journal: Journal) -> None:
    """Masks and parametrizations of the targets become zeros in ordinary weights, noted at each target."""
    for target in targets:
        for module in target.modules.values():
            folded = fold(module)
            if folded is not None:
                note, undo = folded
                journal.on_undo(undo)
                target.notes.append(note)


def _zeros(target: Prunable) -> int:
    weight = target.weight
    return weight.numel() - int(torch.count_nonzero(weight))


def _report(
    targets: list[Prunable],
    before: dict[str, int],
    skipped: list[dict[str, Any]],
    method: Method,
    pattern: object,
    seconds: float,
    every: int,
) -> PruneReport:
    rows = []
    for target in targets:
        row = target.row("pruned", "; ".join(target.notes))
        zeros = _zeros(target)
        counts = {
            "was": before[target.name] / row["weights"],
            "zeros": zeros,
            "sparsity": zeros / row["weights"],
        }
        rows.append({**row, **counts})
    weights, zeros = sum(row["weights"] for row in rows), sum(row["zeros"] for row in rows)
    summary = {
        "method": str(method),
        "pattern": f"{len(pattern)} patterns by layer" if isinstance(pattern, Mapping) else str(pattern),
        "layers": len(targets),
        "weights": weights,
        "zeros": zeros,
        "sparsity": zeros / weights,
        "reached": weights / every,
        "skipped": len(skipped),
        "seconds": seconds,
    }
    return PruneReport([*rows, *skipped], summary)
