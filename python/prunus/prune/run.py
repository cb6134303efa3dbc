"""One pruning run: which pattern for which rows, then the cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from prunus.allocation import Allocation, Global, Key
from prunus.calibration import Calibration, Group, Stats, gradients, untouched, walk
from prunus.calibration.experts import called_experts
from prunus.families.lookup import Rows
from prunus.methods import Method, least_squares
from prunus.methods.base import cuts
from prunus.patterns import Pattern, Unstructured
from prunus.prune.influence import Influence
from prunus.prune.journal import Journal
from prunus.prune.targets import Prunable

__all__ = ["GRADIENTS", "Run", "needed"]

GRADIENTS = frozenset({"grad_sum", "grad_sq"})
Plan = Mapping[Key, Pattern]
Measured = tuple[list[Prunable], Callable[[], Mapping[str, Stats]]]


def needed(method: Method, pattern: object = None) -> frozenset[str]:
    """The statistics that a run with these takes, an allocation's included."""
    own = method.needs | ({"gram"} if method.repair else frozenset())
    return own | (pattern.needs(method) if isinstance(pattern, Allocation) else frozenset())


class Run:
    """The targets of one `prune_` call: how they are measured and cut."""

    def __init__(
        self, model: nn.Module, targets: list[Prunable], method: Method, calibration: Calibration | None
    ) -> None:
        self.model, self.method, self.calibration = model, method, calibration
        self.targets = {target.name: target for target in targets}

    def plan(self, pattern: Pattern | Mapping[str, Pattern] | Allocation) -> Plan:
        """A pattern for every part of every target; an allocation looks at the unpruned model for it."""
        if isinstance(pattern, Unstructured) and pattern.scope == "model":
            pattern = Global(pattern.sparsity)
        if isinstance(pattern, Allocation):
            return self._survey(pattern)
        return {
            (name, part): pattern[name] if isinstance(pattern, Mapping) else pattern
            for name, target in self.targets.items()
            for part in target.parts
        }

    def prune(self, plan: Plan, journal: Journal) -> None:
        """Cut every target as planned; changes go through `journal`."""
        schedule = {key: cuts(pattern, self.method.steps) for key, pattern in plan.items()}
        count = max(len(patterns) for patterns in schedule.values())
        needs = needed(self.method)
        # Where nothing looks at the half-pruned model, masks wait as bits and no old weight is kept.
        live = bool(needs) or count > 1

        def cut(target: Prunable, stats: Stats, turn: int) -> None:
            stats = stats.to(target.weight.device)
            every = {part: schedule[target.name, part] for part in target.parts}
            mask, new = self._cut(
                target, stats, {part: p[min(turn, len(p) - 1)] for part, p in every.items()}
            )
            if self.method.repair:
                assert stats.gram is not None
                old = self._values(journal.old(target.weight))
                new = least_squares(old, mask, stats.gram.to(old.dtype))
            if live or new is not None:
                journal.write(target.weight, mask, new)
            else:
                journal.stage(target.weight, mask)

        with self._measuring(needs):
            # Gradients are of the whole model: every cut goes once through all of it. What a block sees is
            # settled before the block: its cuts follow each other there.
            whole, within = (count, 1) if needs & GRADIENTS else (1, count)
            for outer in range(whole):
                for targets, measure in self._groups(needs, self.method):
                    for inner in range(within):
                        stats = measure()
                        for target in targets:
                            cut(target, stats[target.name], max(outer, inner))

    def _cut(
        self, target: Prunable, stats: Stats, patterns: Mapping[str, Pattern]
    ) -> tuple[Tensor, Tensor | None]:
        """Mask and maybe new values of a whole weight, from those of its parts."""
        weight = self._values(target.weight)
        whole, values = torch.empty(weight.shape, dtype=torch.bool, device=weight.device), None
        try:
            for part, rows in target.parts.items():
                place = _place(rows)
                mask, new = self.method.prune(weight[place], _of_part(target, stats, place), patterns[part])
                if len(target.parts) == 1:
                    return mask, new
                whole[place] = mask
                if new is not None:
                    values = weight.clone() if values is None else values
                    values[place] = new
        except ValueError as error:
            raise ValueError(f"{target.name}: {error}") from error
        return whole, values

    def _survey(self, allocation: Allocation) -> Plan:
        survey = allocation.survey(self.method)
        needs = allocation.needs(self.method)
        influence: Influence | None = None
        with self._measuring(needs):
            for targets, measure in self._groups(needs, type(allocation).__name__):
                stats = measure()
                for target in targets:
                    weight = self._values(target.weight)
                    seen = stats[target.name].to(weight.device)
                    for part, rows in target.parts.items():
                        key, place = (target.name, part), _place(rows)
                        trial = survey.see(key, weight[place], _of_part(target, seen, place))
                        if trial is None or self.calibration is None:
                            continue
                        influence = influence or Influence(self.model, self.calibration)
                        error = influence.of(target.weight, trial, place)
                        if error is not None:
                            survey.felt(key, error)
        return survey.patterns()

    def _values(self, weight: Tensor) -> Tensor:
        """Statistics are float32, so is what they are combined with; a method without any sees the weight."""
        plain = not self.method.needs and not self.method.repair
        return weight if plain or weight.dtype == torch.float64 else weight.float()

    @contextmanager
    def _measuring(self, needs: frozenset[str]) -> Iterator[None]:
        if not needs:
            yield
            return
        with called_experts(self.model) as layers, untouched(self.model), torch.no_grad():
            held = {name: target.modules[name] for name, target in self.targets.items() if name in layers}
            try:
                for name in held:
                    self.targets[name].modules[name] = layers[name]
                yield
            finally:
                for name, matrix in held.items():
                    self.targets[name].modules[name] = matrix

    def _groups(self, needs: frozenset[str], who: object) -> Iterator[Measured]:
        """Targets that are measured together, and what measures them."""
        if not needs:
            yield list(self.targets.values()), lambda: {name: Stats(name) for name in self.targets}
            return
        if self.calibration is None:
            raise ValueError(f"calibration: expected batches of sample inputs for {who}, got None")
        slopes = self._gradients(needs & GRADIENTS) if needs & GRADIENTS else {}
        inputs = needs - GRADIENTS
        if not inputs:
            yield list(self.targets.values()), lambda: slopes
            return
        layers = {name: list(target.modules.values()) for name, target in self.targets.items()}
        for group in walk(self.model, layers, self.calibration, inputs):
            yield [self.targets[name] for name in group.names], partial(_both, group, slopes)

    def _gradients(self, needs: frozenset[str]) -> dict[str, Stats]:
        assert self.calibration is not None
        weights = {name: target.modules[name].weight for name, target in self.targets.items()}
        loss = getattr(self.method, "loss", None)
        if loss is None:
            raise TypeError(f"method: expected a loss on a method that needs gradients, got {self.method}")
        found = gradients(self.model, weights, self.calibration, loss, needs)
        for name, stats in found.items():
            for key in needs:
                setattr(stats, key, self.targets[name].as_matrix(getattr(stats, key)))
        return found


def _both(group: Group, slopes: Mapping[str, Stats]) -> dict[str, Stats]:
    """Statistics of the inputs of a group with the gradients added."""
    stats = group.measure()
    for name, found in stats.items():
        if name in slopes:
            found.grad_sum, found.grad_sq = slopes[name].grad_sum, slopes[name].grad_sq
    return stats


def _place(rows: Rows) -> slice | list[int]:
    """Rows as an index: a view where they are neighbours."""
    return slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)


def _of_part(target: Prunable, stats: Stats, place: slice | list[int]) -> Stats:
    return stats.part(place) if len(target.parts) > 1 else stats
