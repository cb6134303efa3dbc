"""balance_: as fast as asked for, at the least loss that was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.running import Batch, as_batches, check_model, devices_of, evaluating
from prunus.accelerate import AccelerateReport, accelerate_
from prunus.accelerate.survey import Site, recording, survey
from prunus.allocation import Allocation, Key, Survey, choose_levels, trials, weigh
from prunus.balance.floor import Answers
from prunus.balance.pace import Pace
from prunus.balance.report import BalanceReport
from prunus.balance.table import Table, Turns, in_turn, measure, rehearse
from prunus.calibration import Calibration, Stats, as_calibration
from prunus.families import FilterFn
from prunus.methods import Method, Wanda
from prunus.patterns import Block, Pattern, Unstructured
from prunus.prune import PruneReport, fold_targets, prune_and
from prunus.prune.journal import Journal
from prunus.prune.targets import Prunable, find_targets

__all__ = ["BalanceReport", "Target", "balance_"]

LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# How often the chosen levels are tried on the whole model, and by which share what it gains may differ from
# the sum over the layers before they are chosen again.
REHEARSALS, CLOSE = 3, 0.03
# How a target's minutes are shared; the rehearsals have theirs each.
SHARES = {"table": 0.4, "trials": 0.4, "rehearsal": 0.04, "end": 0.08}
_WANDA, _UNSTRUCTURED = Wanda(), Unstructured(0.5)


@dataclass(frozen=True)
class Target:
    """How fast the model shall be: `speedup` over its dense self, or `ms` for all example inputs together.

    pattern: its kind is used, its sparsity replaced by each of `levels`; level 0 (dense) is always tried.
    max_error: the floor of quality, the largest relative error (L2) of the model's outputs for the example
    inputs, before any recovery; None: none. It stops `balance_`, which then leaves the model as it was.
    minutes: about how long timing and trials may take. A model too slow for them is timed in fewer passes,
    and what the whole model feels of a layer is tried for some layers only, spread evenly; solving and
    packing come on top.

    Raises ValueError unless exactly one of speedup (>= 1) and ms (> 0) is given, and for minutes and
    max_error that are not above 0; TypeError for a pattern that is not Unstructured or Block.

    >>> Target(speedup=1.5).candidates()[1]
    Unstructured(sparsity=0.5, scope='tensor')
    """

    speedup: float | None = None
    ms: float | None = None
    pattern: Unstructured | Block = _UNSTRUCTURED
    levels: tuple[float, ...] = LEVELS
    minutes: float = 5.0
    max_error: float | None = None

    def __post_init__(self) -> None:
        if (self.speedup is None) == (self.ms is None):
            got = "neither" if self.ms is None else "both"
            raise ValueError(f"target: expected either speedup or ms, got {got}")
        if self.speedup is not None and not self.speedup >= 1:
            raise ValueError(f"speedup: expected >= 1, got {self.speedup}")
        if self.ms is not None and not self.ms > 0:
            raise ValueError(f"ms: expected > 0, got {self.ms}")
        if self.max_error is not None and not self.max_error > 0:
            raise ValueError(f"max_error: expected > 0, got {self.max_error}")
        if not self.minutes > 0:
            raise ValueError(f"minutes: expected > 0, got {self.minutes}")
        if not isinstance(self.pattern, (Unstructured, Block)):
            raise TypeError(f"pattern: expected Unstructured or Block, got {type(self.pattern).__name__}")
        if isinstance(self.pattern, Unstructured) and self.pattern.scope == "model":
            raise ValueError("pattern: expected scope tensor, row or column, got model")

    def candidates(self) -> list[Pattern]:
        """Dense first, then one pattern per level."""
        return [replace(self.pattern, sparsity=s) for s in (0.0, *self.levels)]

    def wanted_ms(self, dense_ms: float) -> float:
        """The time to reach for a model that takes `dense_ms` now."""
        return self.ms if self.ms is not None else dense_ms / (self.speedup or 1.0)


def balance_(
    model: nn.Module,
    example_inputs: Any,
    target: Target,
    method: Method = _WANDA,
    calibration: Any = None,
    filter_fn: FilterFn | None = None,
) -> BalanceReport:
    """Prune and accelerate, in place, so that the whole model meets a time at the least loss.

    Measures a table layer x sparsity -> milliseconds (our kernels, this machine, torch's current threads) and
    layer x sparsity -> error (like `Sensitivity`, by trial runs of `method` on the calibration inputs),
    chooses a level per layer by dynamic programming, tries them on the whole model with trial weights (and
    chooses again where that gains another time than the layers promised), prunes, converts what is faster,
    and measures again. Masks of `torch.nn.utils.prune` and the like are folded in first, as by `prune_`.
    example_inputs: as for `accelerate_`; the time is that of all batches together. calibration: as for
    `prune_`, default the example inputs. filter_fn: as for `prune_`. An error leaves the model as it was.

    Raises what `prune_` and `accelerate_` raise, and ValueError when the target is out of reach, costs more
    than its max_error, or the model is not on the cpu.
    Source: the formulation of SPDY, arXiv:2201.13096.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512))
    >>> report = balance_(model, torch.randn(64, 512), Target(speedup=1.0, levels=(0.9,)))
    >>> sorted(report.summary)[:3]
    ['converted', 'dense_ms', 'error']
    """
    check_model(model)
    if not isinstance(target, Target):
        raise TypeError(f"target: expected a Target such as Target(speedup=1.5), got {type(target).__name__}")
    if off := [device for device in devices_of(model) if device != "cpu"]:
        raise ValueError(
            "model: expected a model on the cpu, whose layers balance_ can time inside of it, got "
            f"{', '.join(off)}: prune_ and accelerate_ take it"
        )
    started = time.perf_counter()
    batches = as_batches(example_inputs, "example_inputs")
    given = _calibration(calibration, batches)
    shares = {word: share * target.minutes * 60 for word, share in SHARES.items()}
    with Journal() as folds:
        targets, _ = find_targets(model, filter_fn)
        fold_targets(targets, folds)
        answers = Answers(model, batches)
        sites = _called(model, targets, batches)
        with evaluating(model):
            table = measure(model, sites, batches, target.candidates()[1:], seconds=shares["table"])
        _check_reach(table, target)
        rule = _Balance(target, table, partial(_tried, model, sites, batches, shares["rehearsal"]))
        accelerated: list[AccelerateReport] = []
        errors: list[float] = []

        def convert() -> None:
            errors.append(answers.check(target.max_error))
            accelerated.append(accelerate_(model, example_inputs, min_speedup=1.0))

        dense = [site.module for site in sites]
        pruned = prune_and(model, rule, method, given, filter_fn, convert)
        folds.commit()
    _tell_folded(pruned, targets)
    with evaluating(model):
        turns = in_turn(model, sites, dense, batches, seconds=shares["end"])
    report = _report(rule, pruned, accelerated[0], turns)
    report.summary["error"] = errors[0]
    report.summary["seconds"] = time.perf_counter() - started
    return report


class _Balance(Allocation):
    """Levels by measured milliseconds and measured output errors."""

    def __init__(self, target: Target, table: Table, tried: Callable[[Mapping[str, Pattern]], float]) -> None:
        self.target, self.table, self.tried = target, table, tried
        self.predicted_ms = table.model_ms
        self.errors: dict[Key, list[float]] = {}
        self.influence: dict[Key, float] = {}
        self.chosen: dict[str, int] = {}

    def __str__(self) -> str:
        """What a report calls the pattern."""
        wanted = f"{self.target.speedup:g}x" if self.target.speedup is not None else f"{self.target.ms:g} ms"
        return f"{type(self.target.pattern).__name__} levels for {wanted}"

    def needs(self, method: Method) -> frozenset[str]:
        return method.needs | {"gram"}

    def survey(self, method: Method) -> Survey:
        return _Trials(self, method)

    def predicted(self, name: str) -> float | None:
        """Milliseconds of a layer at its level."""
        if name not in self.table.dense:
            return None
        return self.table.dense[name] - self.gains(name)[self.chosen[name]]

    def gains(self, name: str) -> list[float]:
        return [0.0, *(self.table.gains(name) or [0.0] * len(self.target.levels))]

    def choose(self, errors: Mapping[str, list[float]], candidates: Sequence[Pattern]) -> None:
        """Levels by the table, corrected by how the whole model runs with them: what a layer gains depends a
        little on its neighbours."""
        gains = [self.gains(name) for name in errors]
        most = sum(map(max, gains))
        wanted = asked = self.table.model_ms - self.target.wanted_ms(self.table.model_ms)
        for _ in range(REHEARSALS):
            levels = choose_levels(list(errors.values()), gains, min(asked, most))
            before, self.chosen = self.chosen, dict(zip(errors, levels, strict=True))
            promised = sum(gain[level] for gain, level in zip(gains, levels, strict=True))
            if self.chosen == before or promised <= 0:
                return
            sparse = {n: candidates[i] for n, i in self.chosen.items() if self.gains(n)[i] > 0}
            gained = self.table.model_ms * (1.0 - self.tried(sparse))
            self.predicted_ms = self.table.model_ms - gained
            if abs(gained - promised) <= CLOSE * promised or gained <= 0:
                return
            asked = wanted * promised / gained


class _Trials(Survey):
    def __init__(self, rule: _Balance, method: Method) -> None:
        self.rule, self.method = rule, method
        self.candidates = rule.target.candidates()
        self.tried = len(self.candidates) // 2
        self.pace = Pace(SHARES["trials"] * rule.target.minutes * 60, len(rule.table.dense))

    def see(self, key: Key, weight: Tensor, stats: Stats) -> Tensor | None:
        errors, trial = [0.0], None
        for level, (values, error, _) in enumerate(
            trials(self.method, weight, stats, self.candidates[1:]), 1
        ):
            errors.append(error)
            trial = values if level == self.tried else trial
        self.rule.errors[key] = errors
        return trial if self.pace.allows(key[0]) else None

    def felt(self, key: Key, error: float) -> None:
        self.pace.done()
        self.rule.influence[key] = error

    def patterns(self) -> dict[Key, Pattern]:
        """One level per layer: the parts of a fused one are one call and have one time."""
        rule = self.rule
        layers: dict[str, list[list[float]]] = {}
        for (name, _), errors in weigh(rule.errors, rule.influence, self.tried).items():
            layers.setdefault(name, []).append(errors)
        sums = [[sum(e) for e in zip(*parts, strict=True)] for parts in layers.values()]
        rule.choose(dict(zip(layers, sums, strict=True)), self.candidates)
        return {key: self.candidates[rule.chosen[key[0]]] for key in rule.errors}


def _tried(
    model: nn.Module,
    sites: list[Site],
    batches: list[Batch],
    seconds: float,
    levels: Mapping[str, Pattern],
) -> float:
    with evaluating(model):
        return rehearse(model, sites, batches, levels, seconds=seconds)


def _tell_folded(report: PruneReport, targets: list[Prunable]) -> None:
    """What was folded before `prune_` looked, in its report."""
    notes = {target.name: target.notes for target in targets}
    for row in report.rows:
        new = [note for note in notes.get(row["name"], []) if note not in row["note"]]
        row["note"] = "; ".join(filter(None, [row["note"], *new]))


def _calibration(given: Any, batches: list[Batch]) -> Calibration:
    if given is not None:
        return as_calibration(given)
    return Calibration([batch.kwargs or batch.args for batch in batches])


def _called(model: nn.Module, targets: list[Prunable], batches: list[Batch]) -> list[Site]:
    """The layers that will be pruned, can be converted, and are reached by the inputs."""
    modules = {id(module) for target in targets for module in target.modules.values()}
    sites = [site for site in survey(model, None, at_least=0.0) if id(site.module) in modules]
    with evaluating(model), recording(sites):
        for batch in batches:
            batch.run(model)
    found = [site for site in sites if not site.reason and site.inputs]
    if not found:
        raise ValueError("model: expected a Linear layer that can be pruned and converted, got none")
    return found


def _check_reach(table: Table, target: Target) -> None:
    best = table.model_ms - sum(max(table.gains(name)) for name in table.sparse)
    wanted = target.wanted_ms(table.model_ms)
    if best > wanted:
        raise ValueError(
            f"target: expected at least {best:.2f} ms ({table.model_ms / best:.2f}x), the fastest this model "
            f"gets here at these levels, got {wanted:.2f} ms ({table.model_ms / wanted:.2f}x)"
        )


def _report(
    rule: _Balance, pruned: PruneReport, accelerated: AccelerateReport, turns: Turns
) -> BalanceReport:
    runs = {row["name"]: row["runs"] for row in accelerated.rows}
    rows = []
    for row in pruned.rows:
        name = row["name"]
        if name not in rule.chosen:
            continue
        errors = [every[rule.chosen[name]] for key, every in rule.errors.items() if key[0] == name]
        figures = {"error": sum(errors) / len(errors), "dense_ms": rule.table.dense.get(name)}
        rows.append(
            {"name": name, "shape": row["shape"], "sparsity": row["sparsity"], **figures}
            | {"predicted_ms": rule.predicted(name), "runs": runs.get(name, "dense")}
        )
    # Both against the dense time of their moment; `turns` has the dense model second.
    predicted, measured = rule.table.model_ms / rule.predicted_ms, turns.ratio
    summary = {
        "dense_ms": turns.second.ms,
        "target_ms": rule.target.wanted_ms(rule.table.model_ms),
        "predicted_ms": rule.predicted_ms,
        "measured_ms": turns.second.ms / measured,
        "spread": turns.spread,
        "predicted_speedup": predicted,
        "measured_speedup": measured,
        "off": predicted / measured - 1.0,
        "sparsity": pruned.summary["sparsity"],
        "reached": pruned.summary["reached"],
        "layers": len(rows),
        "converted": accelerated.summary["converted"],
        "threads": torch.get_num_threads(),
    }
    report = BalanceReport(rows, summary)
    report.pruned, report.accelerated = pruned, accelerated
    return report
