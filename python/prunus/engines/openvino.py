"""OpenVINO files, and running them in OpenVINO."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunus._tools.interrupts import own_signal_stack
from prunus.engines.graph import Graph, Tensors, cannot_hold, tracing
from prunus.engines.packages import need

__all__ = ["from_onnx", "from_torch", "reader", "written"]


def from_onnx(model: bytes) -> Any:
    """An `openvino.Model` of the bytes of an ONNX file."""
    return need("OpenVINO", "openvino").Core().read_model(model)


def from_torch(graph: Graph) -> Any:
    """The graph as an `openvino.Model`, in float32. Raises ValueError where OpenVINO cannot take the forward.

    It takes more than the way through ONNX does, but not first: OpenVINO 2026.4 divides by zero where it
    compiles a Llama that came so for one thread in bf16, and ends the process. By the front end itself:
    `openvino.convert_model` around it sends statistics on its use.
    """
    ov = need("OpenVINO export", "openvino")
    tensors = tuple(graph.example[name] for name in graph.flat.inputs)
    try:
        with tracing():
            trace: Any = torch.jit.trace
            traced = trace(graph.flat, tensors, strict=False, check_trace=False)
        decoder = import_module("openvino.frontend.pytorch.ts_decoder").TorchScriptPythonDecoder(traced)
        frontend = import_module("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
        given = frontend.load(decoder)
        for i, name in enumerate(graph.flat.inputs):
            free, tensor = graph.axes.get(name, {}), graph.example[name]
            shape = [-1 if axis in free else size for axis, size in enumerate(tensor.shape)]
            place = given.get_place_by_input_index(i)
            given.set_partial_shape(place, ov.PartialShape(shape))
            given.set_element_type(place, ov.Type(tensor.numpy().dtype))
        model = frontend.convert(given)
    except Exception as error:
        raise cannot_hold("OpenVINO", error) from error
    for ports, names in ((model.inputs, graph.flat.inputs), (model.outputs, graph.flat.outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return model


def written(model: Any, half: bool) -> tuple[bytes, bytes]:
    """The two files of a model, .xml and .bin. half: weights are stored as float16."""
    ov = need("OpenVINO export", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        ov.save_model(model, path, compress_to_fp16=half)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def reader(model: Any, threads: int = 0, precision: str | None = None) -> Callable[[Tensors], Tensors]:
    """A function from inputs to float32 outputs by name, in OpenVINO on the CPU, one call at a time.

    model: an `openvino.Model`, its path, or the pair of `written`. threads: 0 leaves the number to OpenVINO.
    precision: "f32" or "bf16"; None: as it comes, bf16 where the CPU multiplies in it.
    """
    core = need("OpenVINO", "openvino").Core()
    if isinstance(model, (str, tuple)):
        model = core.read_model(*([model] if isinstance(model, str) else model))
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    with own_signal_stack():
        compiled = core.compile_model(model, "CPU", settings)
    inputs = [port.any_name for port in model.inputs]
    outputs = [port.any_name for port in model.outputs]  # compiled ones have more names than we gave

    def run(given: Tensors) -> Tensors:
        arrays = compiled({name: given[name].numpy() for name in inputs})
        return {name: torch.from_numpy(np.array(arrays[i], np.float32)) for i, name in enumerate(outputs)}

    return run
