"""export: a model of ours as an ordinary file of another engine."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from torch import Tensor, nn

from prunus._tools.arrays import dtype_word
from prunus._tools.files import write_atomic
from prunus._tools.interrupts import OneInterrupt
from prunus._tools.running import Batch, as_batches, check_model, evaluating, module_bytes
from prunus.accelerate.answers import relative_error
from prunus.engines import onnx, openvino
from prunus.engines.graph import Flat, Graph, Tensors, cannot_hold, dense_copy, make_graph, named_inputs
from prunus.engines.packages import need
from prunus.engines.report import ExportReport
from prunus.nn import SparseLinear

__all__ = ["export"]

# By dtype: the relative error of the answers that rounding alone does not explain.
MOST_ERROR = {"float32": 1e-3, "float16": 1e-2, "int8": 0.3}
# What a model may differ from itself unpacked, because its packed layers quantise activations.
MOST_MODEL_ERROR = 0.3


P = ParamSpec("P")
B = TypeVar("B")
Files = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """An engine: how its files end, what it needs to be installed, the dtypes of weights its tools offer.

    roads: each makes files by ending, the one that is opened last, of a graph and a dtype; the first whose
    files answer right is taken. read: these files -> a function from inputs to outputs.
    """

    title: str
    suffix: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    roads: tuple[Callable[[Graph, str], Files], ...]
    read: Callable[[Files], Callable[[Tensors], Tensors]]
    note: str = ""


def _onnx(graph: Graph, dtype: str) -> Files:
    model = onnx.convert(graph)
    return {".onnx": onnx.int8(model) if dtype == "int8" else model}


def _openvino(graph: Graph, dtype: str) -> Files:
    return _pair(openvino.from_onnx(onnx.convert(graph)), dtype)


def _openvino_of_torch(graph: Graph, dtype: str) -> Files:
    return _pair(openvino.from_torch(graph), dtype)


def _pair(model: Any, dtype: str) -> Files:
    xml, weights = openvino.written(model, half=dtype == "float16")
    return {".bin": weights, ".xml": xml}


def _read_onnx(files: Files) -> Callable[[Tensors], Tensors]:
    return onnx.reader(files[".onnx"])


def _read_openvino(files: Files) -> Callable[[Tensors], Tensors]:
    # In float32: what this machine would round while it runs is not in the file.
    return openvino.reader((files[".xml"], files[".bin"]), precision="f32")


BF16 = (
    "OpenVINO multiplies in bfloat16 where the CPU has it; that is chosen when the file is opened: "
    'compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) keeps float32.'
)
KINDS = {
    "onnx": Kind("ONNX Runtime", ".onnx", ("onnxruntime", "onnx"), ("float32", "int8"), (_onnx,), _read_onnx),
    "openvino": Kind(
        "OpenVINO",
        ".xml",
        ("openvino",),
        ("float32", "float16"),
        (_openvino, _openvino_of_torch),
        _read_openvino,
        BF16,
    ),
}


def export(
    model: nn.Module,
    example_inputs: Any,
    path: str | os.PathLike[str],
    to: str = "onnx",
    dtype: Any = "float32",
    max_error: float | None = None,
) -> ExportReport:
    """Write a model, pruned, shrunk, recovered or accelerated, as an ordinary ONNX or OpenVINO file.

    The model stays as it is: a copy is made dense (`to_dense_`; zeros stay) and float32 before. What
    `shrink_` removed is gone from the file too, and every engine gains by it; zeros it multiplies.
    example_inputs: a tensor, a tuple, a dict or BatchEncoding of keywords, what the `preprocess` of a
    sentence-transformers model makes, or a list of such batches. Their tensors become the inputs, under the
    names of the model's arguments, other values are constants; every floating-point output is an output. The
    first axis (batch) and the second (length) of the inputs are free where the model itself takes another
    size. A key/value cache is left out.
    path: a file ending in .onnx, or in .xml for OpenVINO, which has a .bin beside it. It is replaced only by
    a complete one. to: "onnx" or "openvino". dtype: of the weights in the file, a word or a torch dtype, made
    by the engine's own tool: "float32", "int8" (ONNX: one scale a channel, activations while it runs),
    "float16" (OpenVINO: half the file). What OpenVINO multiplies in is chosen when a file is opened.
    The file is opened in its engine and must answer as the model does on the example inputs, on another batch
    and length, and on a batch of one. max_error: the relative error (L2) allowed (None: 0.001, 0.01 for
    float16, 0.3 for int8).

    Raises TypeError (model, inputs of another kind), ValueError (to, dtype, path, max_error; weights on the
    meta device; no floating-point outputs; a forward that the engine cannot hold; answers beyond max_error),
    ImportError (the engine is not installed) and OSError. Then nothing is written.

    >>> import importlib.util, tempfile, torch, prunus
    >>> path = tempfile.mkdtemp() + "/model.onnx"
    >>> have = all(map(importlib.util.find_spec, ("onnx", "onnxruntime")))
    >>> report = prunus.export(torch.nn.Linear(4, 2), torch.ones(3, 4), path) if have else None
    >>> report is None or report.summary["inputs"] == {"input": ["batch", "-"]}
    True
    """
    check_model(model)
    if to not in KINDS:
        raise ValueError(f"to: expected {' or '.join(KINDS)}, got {to!r}")
    kind = KINDS[to]
    word = dtype_word(dtype, "dtype", kind.dtypes)
    bound = _bound(max_error, word)
    target = _check_path(path, kind.suffix)
    need(f"export to {kind.title}", *kind.packages)
    batches = as_batches(example_inputs, "example_inputs")
    graph = make_graph(dense_copy(model), batches)
    for i, road in enumerate(kind.roads):
        try:
            files = _guarded(kind.title, road)(graph, word)
            answer = _guarded(kind.title, _guarded(kind.title, kind.read)(files))
            rows = _checked(model, batches[0], graph, answer, bound)
            break
        except ValueError:
            if i + 1 == len(kind.roads):
                raise
    _write(target, files)
    summary = {
        "to": to,
        "path": str(target),
        "dtype": word,
        "inputs": {name: _axis_names(graph, name) for name in graph.flat.inputs},
        "outputs": graph.flat.outputs,
        "unpacked": len({id(m) for m in model.modules() if isinstance(m, SparseLinear)}),
        "bytes_model": module_bytes(model),
        "bytes_file": sum(map(len, files.values())),
        "error": max(row["error"] for row in rows),
        "model_error": max(row["model_error"] for row in rows),
        "engine": f"{kind.title} {importlib.metadata.version(kind.packages[0])}",
        "note": kind.note,
    }
    return ExportReport(rows, summary)


def _bound(max_error: float | None, word: str) -> float:
    bound = MOST_ERROR[word] if max_error is None else max_error
    if not isinstance(bound, (int, float)) or not (bound >= 0 and math.isfinite(bound)):
        raise ValueError(f"max_error: expected a finite number >= 0, got {bound!r}")
    return float(bound)


def _check_path(path: str | os.PathLike[str], suffix: str) -> Path:
    target = Path(path)
    if target.suffix != suffix:
        got = f"the directory {str(path)!r}" if target.is_dir() else repr(str(path))
        raise ValueError(f"path: expected a file ending in {suffix}, got {got}")
    if target.is_dir():
        raise ValueError(f"path: expected a file ending in {suffix}, got the directory {str(path)!r}")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"path: expected a file in an existing directory, got {str(path)!r}")
    return target


def _checked(
    model: nn.Module, batch: Batch, graph: Graph, answer: Callable[[Tensors], Tensors], bound: float
) -> list[dict[str, Any]]:
    """A row for every probe; ValueError where the file answers otherwise."""
    rows = []
    given = named_inputs(model, batch)
    with evaluating(model):
        flat = Flat(model, batch)
        for probe in graph.probes:
            expected, got = graph.flat.answer(probe), answer(probe)
            own = flat.answer({name: _as(tensor, given[name]) for name, tensor in probe.items()})
            own = {name: own[name].cpu().float() for name in expected if name in own}
            sizes = _sizes(graph, probe)
            error = relative_error([expected], [got])
            apart = relative_error([own], [expected])
            if not error <= bound:
                raise ValueError(
                    f"model: expected the exported file to answer as it does, got a relative error of "
                    f"{error:.3g} at {sizes}, more than max_error {bound:g}"
                )
            if not apart <= MOST_MODEL_ERROR:
                raise ValueError(
                    f"model: expected it to answer as it does with its layers unpacked, got a relative error "
                    f"of {apart:.3g} at {sizes}, more than {MOST_MODEL_ERROR:g}"
                )
            rows.append({"sizes": sizes, "error": error, "model_error": relative_error([own], [got])})
    return rows


def _guarded(title: str, function: Callable[P, B]) -> Callable[P, B]:
    """The function, whose every error is that the engine cannot take the model."""

    def guarded(*args: P.args, **kwargs: P.kwargs) -> B:
        try:
            return function(*args, **kwargs)
        except ValueError:  # says so already
            raise
        except Exception as error:
            raise cannot_hold(title, error) from error

    return guarded


def _as(tensor: Tensor, given: Tensor) -> Tensor:
    return tensor.to(device=given.device, dtype=given.dtype)


def _sizes(graph: Graph, probe: Tensors) -> str:
    """The free sizes of a probe by name, or all shapes where none is free."""
    found = {word: probe[name].shape[axis] for name, of in graph.axes.items() for axis, word in of.items()}
    if found:
        return ", ".join(f"{word} {size}" for word, size in found.items())
    return ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in probe.values())


def _axis_names(graph: Graph, name: str) -> list[str]:
    of = graph.axes.get(name, {})
    return [of.get(axis, "-") for axis in range(graph.example[name].dim())]


def _write(target: Path, files: dict[str, bytes]) -> None:
    """The file that is opened last: a reader finds either none or all of them."""
    with OneInterrupt() as interrupt:
        interrupt.hold()
        if len(files) > 1:
            target.unlink(missing_ok=True)  # it would find the weights of the new one
        for suffix, data in files.items():
            write_atomic(target.with_suffix(suffix), data)
