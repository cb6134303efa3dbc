"""A recipe: steps in order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prunus._tools.report import Report
from prunus._tools.running import check_model
from prunus.cli.recipes.steps import Job, Step

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Steps that are done to a model one after the other: shrink, prune, recover, accelerate, export.

    steps: `Shrink`, `Prune`, `Recover`, `Accelerate` and `Export` of `prunus.cli.recipes`. After `Accelerate`
    only an `Export` may follow: packed layers are not pruned or trained. `Recipe.read(path)` reads a YAML
    file.

    Raises TypeError for something else than steps, ValueError for none and for an order that cannot be.

    >>> from prunus.cli.recipes import Accelerate, Prune
    >>> from prunus.patterns import Unstructured
    >>> [step.word for step in Recipe([Prune(Unstructured(0.7)), Accelerate()]).steps]
    ['prune', 'accelerate']
    """

    steps: tuple[Step, ...]

    def __init__(self, steps: Iterable[Step]) -> None:
        object.__setattr__(self, "steps", tuple(steps))
        if not self.steps:
            raise ValueError("steps: expected at least one, got none")
        packed = False
        for i, step in enumerate(self.steps, 1):
            if not isinstance(step, Step):
                raise TypeError(
                    f"steps: expected steps of prunus.cli.recipes, got {type(step).__name__} as step {i}"
                )
            if packed and step.word != "export":
                raise ValueError(
                    f"steps: expected nothing but export after accelerate, got {step.word} as step {i}"
                )
            packed = packed or step.word == "accelerate"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Recipe:
        """The recipe in a YAML file. Raises ValueError for what it does not understand, by the step's number,
        ImportError without PyYAML."""
        from prunus.cli.recipes.read import steps_of

        return cls(steps_of(Path(path)))

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        calibration: Any = None,
        teacher: Any = None,
        data: Any = None,
        out: str | os.PathLike[str] | None = None,
    ) -> dict[str, Report]:
        """Do all steps to `model`, in place; reports by "number-word", such as "1-shrink".

        inputs: of the shapes of production, for accelerate and export. calibration: for shrink and prune.
        teacher, data: for recover. out: an existing folder for the files of export. What is missing is a
        ValueError before the first step; an error in a step leaves the model as the steps before it made it.
        """
        check_model(model)
        job = Job(model, inputs, calibration, teacher, data, None if out is None else Path(out))
        for i, step in enumerate(self.steps, 1):
            for name in step.needs:
                if getattr(job, name) is None:
                    raise ValueError(f"{name}: expected it for step {i}, {step.word}, got none")
        return {f"{i}-{step.word}": step.run(job) for i, step in enumerate(self.steps, 1)}
