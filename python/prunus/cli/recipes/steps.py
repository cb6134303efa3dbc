"""The steps of a recipe: what is done with a model, and with which arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from prunus._tools.report import Report
from prunus.accelerate import accelerate_
from prunus.accelerate.candidates import PRECISIONS
from prunus.engines import export
from prunus.engines.verb import KINDS
from prunus.methods import Magnitude, Method
from prunus.patterns import Pattern
from prunus.prune import prune_
from prunus.recover import Distill, Recovery, recover_
from prunus.shrink import Heads, Layers, Neurons, shrink_

__all__ = ["Accelerate", "Export", "Job", "Prune", "Recover", "Shrink", "Step"]


@dataclass
class Job:
    """A model, and what the steps may need: see `Recipe.run`."""

    model: nn.Module
    inputs: Any
    calibration: Any = None
    teacher: Any = None
    data: Any = None
    out: Path | None = None


@dataclass(frozen=True)
class Step:
    """One verb with its arguments."""

    word: ClassVar[str]
    #: Names of fields of `Job` without which it cannot run.
    needs: ClassVar[tuple[str, ...]] = ()

    def run(self, job: Job) -> Report:
        """Do it to `job.model`, in place."""
        raise NotImplementedError(f"{type(self).__name__}.run")


@dataclass(frozen=True)
class Shrink(Step):
    """`shrink_`: what goes, and what the width that stays is a multiple of."""

    what: Neurons | Heads | Layers
    round_to: int = 1
    word = "shrink"

    def run(self, job: Job) -> Report:
        return shrink_(job.model, self.what, job.calibration, self.round_to)


@dataclass(frozen=True)
class Prune(Step):
    """`prune_`: how zeros lie, and how weights are chosen."""

    pattern: Pattern
    method: Method = field(default_factory=Magnitude)
    word = "prune"

    def run(self, job: Job) -> Report:
        return prune_(job.model, self.pattern, self.method, job.calibration)


@dataclass(frozen=True)
class Recover(Step):
    """`recover_`: towards `Job.teacher`, on `Job.data`."""

    method: Recovery = field(default_factory=Distill)
    word = "recover"
    needs = ("teacher", "data")

    def run(self, job: Job) -> Report:
        return recover_(job.model, job.teacher, job.data, self.method)


@dataclass(frozen=True)
class Accelerate(Step):
    """`accelerate_`, on the shapes of `Job.inputs`."""

    precision: str = "float32"
    min_speedup: float = 1.05
    max_error: float | None = None
    word = "accelerate"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")

    def run(self, job: Job) -> Report:
        more = {"min_speedup": self.min_speedup, "max_error": self.max_error}
        return accelerate_(job.model, job.inputs, self.precision, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Export(Step):
    """`export` of the model as it is then, to a file of that name in `Job.out`."""

    file: str
    to: str = "onnx"
    dtype: str = "float32"
    word = "export"
    needs = ("out",)

    def __post_init__(self) -> None:
        if self.to not in KINDS:
            raise ValueError(f"to: expected {' or '.join(KINDS)}, got {self.to!r}")
        kind = KINDS[self.to]
        if not self.file.endswith(kind.suffix):
            raise ValueError(f"file: expected a name ending in {kind.suffix}, got {self.file!r}")
        if self.dtype not in kind.dtypes:
            raise ValueError(f"dtype: expected one of {', '.join(kind.dtypes)}, got {self.dtype!r}")

    def run(self, job: Job) -> Report:
        assert job.out is not None
        return export(job.model, job.inputs, job.out / self.file, self.to, self.dtype)
