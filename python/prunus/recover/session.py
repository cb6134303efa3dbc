"""One call of `recover_`: the models, the data and how to run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.running import moved
from prunus.calibration import Calibration, untouched
from prunus.calibration.batches import real_tokens, run_batch
from prunus.families import FilterFn
from prunus.recover.check import free_weights
from prunus.recover.data import Source, count_tokens, strip_labels
from prunus.recover.objective import Outputs, split_outputs
from prunus.recover.pairs import Pair, Taps, pair_blocks
from prunus.recover.quality import Answer, Quality, measure

__all__ = ["Session", "trainable"]

KEPT_BYTES = 256_000_000  # of the teacher's outputs for the held-out batches


class Session:
    """What the methods of one `recover_` call share.

    model: changed in place. teacher: never changed. pairs: blocks that stand for each other. held_out:
    batches that no step sees. curve: one row per measurement. notes: sentences for the report.
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module, source: Source, filter_fn: FilterFn | None
    ) -> None:
        self.model, self.teacher, self.source, self.filter_fn = model, teacher, source, filter_fn
        self.device = next(model.parameters()).device
        self._how = Calibration([{}], forward=source.forward, real=source.real, progress=False)
        self._goals: dict[int, Outputs] = {}
        self.notes: list[str] = []
        self.curve: list[dict[str, Any]] = []
        self.known: Quality | None = None  # of the model as it is; a method that changes it says
        self.seconds = 0.0  # spent by the methods before the present one
        self.held_out = [self.ready(batch) for batch in source.held_out]
        self.pairs: list[Pair] = pair_blocks(model, teacher)

    def ready(self, batch: Any, labels: bool = False) -> Any:
        """The batch on the model's device; without labels where nobody reads them."""
        if not labels:
            batch, had = strip_labels(batch)
            note = "labels in the data were not used: recovery needs none (a loss of yours may)"
            if had and note not in self.notes:
                self.notes.append(note)
        return moved(batch, self.device)

    def calibration(self, batches: list[Any]) -> Calibration:
        """Batches for a method that looks at inputs, run as everything here is."""
        return replace(self._how, batches=batches)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """The model's output."""
        return run_batch(model, batch, self._how)

    def real(self, batch: Any) -> Tensor | None:
        """bool (batch, tokens), False at padding; None when the batch says nothing."""
        real = real_tokens(self.model, batch, self._how)
        return None if real is None else real.to(self.device)

    def sample(self, tokens: int, seed: int) -> list[tuple[Any, Tensor | None, int]]:
        """Training batches with at least so many tokens if there are: (batch, real tokens, how many)."""
        found, seen = [], 0
        for batch in self.source.epoch(seed, 0):
            batch = self.ready(batch)
            real = self.real(batch)
            count = count_tokens(batch, real)
            found.append((batch, real, count))
            seen += count
            if seen >= tokens:
                break
        if not found:
            raise ValueError("data: expected a batch to learn from, got none left")
        return found

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Both models in evaluation mode without caches; as before afterwards."""
        with untouched(self.teacher), untouched(self.model):
            yield

    def without_labels(self, batch: Any) -> Any:
        """The batch as the teacher gets it."""
        return strip_labels(batch)[0]

    def goal(self, index: int) -> Outputs:
        """The teacher's outputs for a held-out batch; kept where they are small."""
        if index not in self._goals:
            found = split_outputs(self.forward(self.teacher, self.held_out[index]))
            if found.bytes() * len(self.held_out) > KEPT_BYTES:
                return found
            self._goals[index] = found
        return self._goals[index]

    def quality(self) -> Quality:
        """Of the model as it is now, measured on the held-out batches; nothing is left changed."""
        with self.measuring(), torch.no_grad():
            return measure(self._answers())

    def _answers(self) -> Iterator[Answer]:
        for index, batch in enumerate(self.held_out):
            goal = self.goal(index)
            yield split_outputs(self.forward(self.model, batch)), goal, batch, self.real(batch)

    def present(self) -> Quality:
        """Of the model between two methods: as the last one left word (`known`), else measured."""
        if self.known is None:
            self.known = self.quality()
        return self.known

    def check(self, dense: bool = False) -> None:
        """ValueError when the models give different things for the first held-out batch; a note when the
        model is as dense as its teacher. dense: that it is so on purpose."""
        batch = self.held_out[0]
        with self.measuring(), torch.no_grad():
            names = [pair.student for pair in self.pairs], [pair.target for pair in self.pairs]
            mine, theirs = Taps(self.model, names[0]), Taps(self.teacher, names[1])
            with mine.attached(), theirs.attached():
                output, states = mine.run(lambda: self.forward(self.model, batch))
                goal, goals = theirs.run(lambda: self.forward(self.teacher, batch))
        a, b = split_outputs(output).shapes(), split_outputs(goal).shapes()
        if a != b:
            raise ValueError(f"teacher: expected outputs of the shapes {a}, got {b}")
        for pair, state, other in zip(self.pairs, states, goals, strict=True):
            if state.shape != other.shape:
                raise ValueError(
                    f"teacher: expected hidden states of shape {tuple(state.shape)} as at {pair.student}, "
                    f"got {tuple(other.shape)}"
                )
        note = free_weights(self.model, self.teacher)
        if note and not dense:
            self.notes.append(note)

    def add_to_curve(self, method: str, seconds: float, found: Quality, **more: Any) -> None:
        """One measurement, `seconds` after the method's start."""
        minutes = (self.seconds + seconds) / 60
        self.curve.append({"method": method, "minutes": minutes, **more, **found.figures})


def trainable(model: nn.Module, filter_fn: FilterFn | None) -> dict[str, nn.Parameter]:
    """What recovery may change: floating-point parameters that require grad, but for embeddings and what
    shares their memory, and for what `filter_fn(module, name)` refuses. Each once, in the model's order."""
    tables = (nn.Embedding, nn.EmbeddingBag)
    words = {id(p) for m in model.modules() if isinstance(m, tables) for p in m.parameters(recurse=False)}
    found: dict[str, nn.Parameter] = {}
    seen = set(words)
    for name, module in model.named_modules():
        if filter_fn is not None and not filter_fn(module, name):
            continue
        for key, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen or not parameter.is_floating_point():
                continue
            if parameter.requires_grad:
                seen.add(id(parameter))
                found[f"{name}.{key}".lstrip(".")] = parameter
    return found
