"""The model before and after in every engine of the machine: which of them nothing else beats."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus._tools.report import Column, Report
from prunus._tools.running import Batch, evaluating, module_bytes, torch_threads
from prunus._tools.timing import take_turns
from prunus.accelerate import accelerate_
from prunus.engines import onnx, openvino
from prunus.engines.graph import Flat, Tensors, dense_copy, make_graph, plain
from prunus.engines.packages import installed
from prunus.nn import SparseLinear
from prunus.report.closeness import Closeness

__all__ = ["ENGINES", "EnginesReport", "choose_engines", "measure_engines"]

# Of measuring, for each engine with a model in it.
SECONDS = 1.5
# At the start of every turn, so that the threads of the engine before it sleep: what bench does.
WARM = 0.003
# Cosines closer than this are the same quality.
SAME = 1e-3


class EnginesReport(Report):
    """What every engine makes of the model before and after; one row for each of both.

    Row: engine, model ("before" or "after"), ms (the fastest of interleaved runs over all batches), speed
    (against torch with the model before), cosine and relative_error (of all outputs, against the model before
    in torch and float32, as `compare`), megabytes (of the module, or of the file that the engine reads),
    frontier (nothing is both faster and closer), note (why an engine has no figures). Summary: threads,
    batches, winner (the fastest with the quality of the model before), winner_after (with that of the model
    after): engine, model, ms, speed, cosine.
    """

    title = "Engines"
    columns = (
        Column("engine"),
        Column("model"),
        Column("ms", spec=".2f"),
        Column("speed", spec=".2f", unit="x"),
        Column("cosine", spec=".4f"),
        Column("relative_error", "relative\nerror", ".2g"),
        Column("megabytes", "MB", ".1f"),
        Column("frontier"),
        Column("note", optional=True),
    )
    dim_when = ("frontier", False)

    def summary_line(self) -> str:
        """Who is fastest at the quality of each of the two models."""
        s = self.summary
        threads = f"{s['threads']} thread{'s' * (s['threads'] != 1)}"
        first = f"With the quality of the model before, {_words(s['winner'])} is the fastest"
        second = f"with that of the model after (cosine {s['cosine_after']:.4f}), {_words(s['winner_after'])}"
        return f"{first}; {second}. {threads}."

    def plot(self, path: str | Path) -> None:
        """Quality against milliseconds as a picture; the ending of `path` says the kind (.svg, .png).

        Raises ImportError without matplotlib.
        """
        from prunus.report.picture import draw

        draw(self.rows, path)


def _words(winner: dict[str, Any]) -> str:
    return f"{winner['engine']} with the model {winner['model']} ({winner['ms']:.2f} ms)"


Run = Callable[[Tensors], Tensors]


class Subject:
    """One of the two models, and what engines are made of."""

    def __init__(self, given: nn.Module, batches: list[Batch], threads: int) -> None:
        self.given, self.threads = given, threads
        self.batches = [plain(batch) for batch in batches]
        self.packed = any(isinstance(module, SparseLinear) for module in given.modules())
        self.graph = make_graph(dense_copy(given), batches)
        self.dense = self.graph.flat
        self.inputs = self.graph.probes[: len(batches)]

    @cached_property
    def onnx(self) -> bytes:
        """The model as an ONNX file."""
        return onnx.convert(self.graph)

    def flat(self, change: Callable[[nn.Module], object]) -> Flat:
        """A changed copy of the dense model."""
        made = copy.deepcopy(self.dense)
        change(made.model)
        return made


Made = tuple[Run, int]  # what runs, and the bytes of its weights


def _torch(subject: Subject) -> Made:
    return subject.dense.answer, module_bytes(subject.dense.model)


def _bfloat16(subject: Subject) -> Made:
    flat = subject.flat(lambda model: model.bfloat16())
    return _halved(flat, flat.answer), module_bytes(flat.model)


def _compiled(subject: Subject) -> Made:
    flat = subject.flat(lambda model: model.bfloat16())
    compiled = torch.compile(flat)

    def answer(inputs: Tensors) -> Tensors:
        found = compiled(*(inputs[name] for name in flat.inputs))
        return dict(zip(flat.outputs, found, strict=True))

    return _halved(flat, answer), module_bytes(flat.model)


def _halved(flat: Flat, answer: Run) -> Run:
    def run(inputs: Tensors) -> Tensors:
        return answer({k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()})

    return run


def _prunus(subject: Subject) -> Made:
    """As it was given."""
    flat = Flat(subject.given, subject.batches[0])
    return flat.answer, module_bytes(subject.given)


def _prunus_int8(subject: Subject) -> Made:
    flat = subject.flat(lambda model: accelerate_(model, subject.batches, "int8"))
    return flat.answer, module_bytes(flat.model)


def _onnx(subject: Subject) -> Made:
    return onnx.reader(subject.onnx, subject.threads), len(subject.onnx)


def _onnx_int8(subject: Subject) -> Made:
    model = onnx.int8(subject.onnx)
    return onnx.reader(model, subject.threads), len(model)


def _openvino(subject: Subject) -> Made:
    return openvino.reader(openvino.from_onnx(subject.onnx), subject.threads), len(subject.onnx)


@dataclass(frozen=True)
class Engine:
    """How a model comes into an engine, and what must be installed for it."""

    make: Callable[[Subject], Made]
    packages: tuple[str, ...] = ()
    slow: bool = False  # to prepare: only by name


ENGINES = {
    "torch": Engine(_torch),
    "torch bfloat16": Engine(_bfloat16),
    "torch compiled bfloat16": Engine(_compiled, slow=True),
    "ONNX Runtime": Engine(_onnx, ("onnxruntime", "onnx")),
    "ONNX Runtime int8": Engine(_onnx_int8, ("onnxruntime", "onnx")),
    "OpenVINO": Engine(_openvino, ("openvino",)),
    "prunus": Engine(_prunus),
    "prunus int8": Engine(_prunus_int8),
}


def choose_engines(engines: bool | Sequence[str]) -> list[str]:
    """The names asked for; True: all that are installed, but those that take minutes.

    Raises ValueError for an unknown name, ImportError for one that is not installed.

    >>> choose_engines(["torch"]), choose_engines(False)
    (['torch'], [])
    """
    if isinstance(engines, bool):
        ready = [name for name, engine in ENGINES.items() if installed(*engine.packages) and not engine.slow]
        return ready if engines else []
    for name in engines:
        if name not in ENGINES:
            raise ValueError(f"engines: expected some of {', '.join(ENGINES)}, got {name!r}")
        if not installed(*ENGINES[name].packages):
            raise ImportError(f"engines: {name} needs {' and '.join(ENGINES[name].packages)}, not installed")
    return [name for name in ENGINES if name in engines]


def measure_engines(
    before: nn.Module, after: nn.Module, batches: list[Batch], names: Sequence[str], threads: int
) -> EnginesReport:
    """Both models in these engines with so many threads; torch with float32 and the model before always runs.

    "prunus" is a model as it was given, where it has packed layers; "prunus int8" is what `accelerate_` makes
    of one that has none.
    """
    names = ["torch", *(name for name in names if name != "torch")]
    with evaluating(before, after), torch_threads(threads):
        subjects = {word: Subject(m, batches, threads) for word, m in (("before", before), ("after", after))}
        expected = [subjects["before"].dense.answer(inputs) for inputs in subjects["before"].inputs]
        field = list(_field(subjects, names, expected, batches))
        ready = [one for one in field if one.run is not None]
        times = take_turns([one.all for one in ready], SECONDS * len(ready), at_least=5, warm=WARM)
    for one, time in zip(ready, times, strict=True):
        one.row["ms"] = time.best_ms
    return _report([one.row for one in field], threads, len(batches))


@dataclass
class Contender:
    """An engine with a model in it, and its row of the report; run: None where it could not be made."""

    row: dict[str, Any]
    run: Run | None
    inputs: list[Tensors]

    def all(self) -> None:
        """Every batch once."""
        assert self.run is not None
        for inputs in self.inputs:
            self.run(inputs)


def _field(
    subjects: dict[str, Subject], names: Iterable[str], expected: list[Tensors], batches: list[Batch]
) -> Iterator[Contender]:
    for name in names:
        for word, subject in subjects.items():
            if (name == "prunus" and not subject.packed) or (name == "prunus int8" and subject.packed):
                continue
            row: dict[str, Any] = {"engine": name, "model": word, "ms": None, "note": None}
            try:
                run, size = ENGINES[name].make(subject)
                quality = Closeness()
                for batch, inputs, answer in zip(batches, subject.inputs, expected, strict=True):
                    quality.add(batch, answer, run(inputs))
            except Exception as error:
                # An engine that cannot take this model is a line of the table, not the end of it.
                row["note"] = str(error).strip().split("\n")[0][:120] or type(error).__name__
                yield Contender(row, None, subject.inputs)
                continue
            figures = {"cosine": quality.cosine, "relative_error": quality.relative_error}
            yield Contender(row | figures | {"megabytes": size / 1e6}, run, subject.inputs)


def _report(rows: list[dict[str, Any]], threads: int, batches: int) -> EnginesReport:
    timed = [row for row in rows if row["ms"] is not None]
    base = next(row for row in timed if row["model"] == "before")
    for row in timed:
        row["speed"] = base["ms"] / row["ms"]
        row["frontier"] = not any(
            other["ms"] < row["ms"] and other["cosine"] > row["cosine"] - SAME / 10 for other in timed
        )
    least = next((row["cosine"] for row in timed if row["model"] == "after"), base["cosine"])
    summary = {
        "threads": threads,
        "batches": batches,
        "cosine_after": least,
        "winner": _winner(timed, base["cosine"] - SAME),
        "winner_after": _winner(timed, least - SAME),
    }
    return EnginesReport(rows, summary)


def _winner(rows: list[dict[str, Any]], cosine: float) -> dict[str, Any]:
    best = min((row for row in rows if row["cosine"] >= cosine), key=lambda row: float(row["ms"]))
    return {key: best[key] for key in ("engine", "model", "ms", "speed", "cosine")}
