"""ONNX files, and running them in ONNX Runtime."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import prunus._core as _core
from prunus.engines.graph import Graph, Tensors, cannot_hold, tracing
from prunus.engines.packages import need

__all__ = ["convert", "int8", "onnx_session", "reader"]

#: Of the operators: the oldest that has all we need; every ONNX Runtime since 1.12 reads it.
OPSET = 17
#: What protobuf, and so a single file, can hold.
MOST_BYTES = 2**31 - 2**20


def convert(graph: Graph) -> bytes:
    """The graph as the bytes of an ONNX file, in float32.

    Raises ValueError where a file cannot hold the weights, or the exporter cannot take the forward.
    """
    if graph.weight_bytes > MOST_BYTES:
        size = graph.weight_bytes / 2**30
        raise ValueError(f"model: expected at most 2 GiB of weights for one ONNX file, got {size:.1f}")
    file = io.BytesIO()
    try:
        with tracing(), _unlogged():
            torch.onnx.export(
                graph.flat,
                tuple(graph.example[name] for name in graph.flat.inputs),
                file,  # type: ignore[arg-type]  # the annotation leaves out what it takes
                input_names=graph.flat.inputs,
                output_names=graph.flat.outputs,
                dynamic_axes={**graph.axes, **graph.output_axes},
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:
        raise cannot_hold("ONNX Runtime", error) from error
    return file.getvalue()


@contextmanager
def _unlogged() -> Iterator[None]:
    """torch prints the whole graph where an export fails, whether its log is on or not."""
    log = getattr(torch._C, "_jit_onnx_log", None)
    try:
        if log is not None:
            torch._C._jit_onnx_log = lambda *_: None
        yield
    finally:
        if log is not None:
            torch._C._jit_onnx_log = log


def int8(model: bytes) -> bytes:
    """The same model with int8 weights, one scale a channel, by ONNX Runtime's own tool; activations are
    quantised while it runs. Weights have 7 bits where the 8-bit products of this machine would saturate."""
    quantization = need("int8 in ONNX", "onnxruntime.quantization", "onnxruntime", "onnx")
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it asks for a step that changes nothing here
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
            source.write_bytes(model)
            quantization.quantize_dynamic(
                source,
                target,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=_saturates(),
            )
            return target.read_bytes()
    finally:
        logging.getLogger().setLevel(level)


def _saturates() -> bool:
    """x86 without VNNI adds pairs of 8-bit products in 16 bits."""
    isas = _core.available_isas()
    return "avx2" in isas and not {"avxvnni", "avx512icl", "amx"} & set(isas)


def onnx_session(model: bytes | str, threads: int) -> Any:
    """A model, or the path of one, in ONNX Runtime on the CPU. threads: 0 leaves the number to it."""
    ort = need("ONNX Runtime", "onnxruntime")
    ort.set_default_logger_severity(4)  # what it logs it raises as well
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Its pool spins between calls; that must not run into what is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def reader(model: bytes | str, threads: int = 0) -> Callable[[Tensors], Tensors]:
    """A function from inputs to outputs by name. Inputs that the file does not have are left out."""
    session = onnx_session(model, threads)
    inputs = [one.name for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]

    def run(given: Tensors) -> Tensors:
        arrays = session.run(None, {name: given[name].numpy() for name in inputs})
        return {name: torch.from_numpy(array) for name, array in zip(outputs, arrays, strict=True)}

    return run
