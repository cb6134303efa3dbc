"""Dense inference engines: ONNX Runtime (fp32, dynamic int8) and OpenVINO."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.base import Peer, Prepared, missing_package
from bench.problem import Problem
from prunus._tools.interrupts import own_signal_stack


def onnx_model(problem: Problem) -> Any:
    """A MatMul with a constant weight (and Add), free number of tokens."""
    from onnx import TensorProto, helper, numpy_helper

    n, k = problem.w.shape
    constants = [numpy_helper.from_array(np.ascontiguousarray(problem.w.T), "w")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y" if problem.bias is None else "xw"])]
    if problem.bias is not None:
        constants.append(numpy_helper.from_array(problem.bias, "b"))
        nodes.append(helper.make_node("Add", ["xw", "b"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class OnnxRuntime(Peer):
    name = "onnxruntime"

    def missing(self) -> str | None:
        return missing_package("onnxruntime", "onnx")

    def prepare(self, problem: Problem) -> Prepared:
        import onnxruntime as ort

        from prunus.engines.onnx import onnx_session

        session = onnx_session(self.model_bytes(problem), problem.threads)
        y = np.empty((problem.m, problem.w.shape[0]), np.float32)
        binding = session.io_binding()
        binding.bind_cpu_input("x", problem.x)
        binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(y))
        output = binding.get_outputs()[0]

        def call() -> Any:
            session.run_with_iobinding(binding)
            return output

        return Prepared(call, self.weight_bytes(problem))

    def to_numpy(self, y: Any) -> Any:
        return y.numpy()

    def model_bytes(self, problem: Problem) -> bytes:
        return bytes(onnx_model(problem).SerializeToString())

    def weight_bytes(self, problem: Problem) -> int:
        return int(problem.w.nbytes)


class OnnxRuntimeInt8(OnnxRuntime):
    """onnxruntime.quantization.quantize_dynamic, int8 weight per channel."""

    name = "onnxruntime-int8"
    dtype = "int8"
    tolerance = 0.2

    def model_bytes(self, problem: Problem) -> bytes:
        import logging

        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.getLogger().setLevel(logging.ERROR)  # it warns about a missing pre-processing step
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            onnx.save(onnx_model(problem), source)
            # reduce_range: without VNNI the 8-bit products saturate (measured: error 0.37 of the RMS).
            quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
            return target.read_bytes()

    def weight_bytes(self, problem: Problem) -> int:
        return int(problem.w.size)


class OpenVino(Peer):
    name = "openvino"
    slow = True
    hint = "f32"  # of the precision: as it comes, it takes bf16 where the CPU has it

    def missing(self) -> str | None:
        return missing_package("openvino")

    def supports(self, problem: Problem) -> bool:
        return super().supports(problem) and problem.bias is None

    def prepare(self, problem: Problem) -> Prepared:
        import openvino as ov
        from openvino import opset13 as ops

        x = ops.parameter(problem.x.shape, np.float32, name="x")
        y = ops.matmul(x, ops.constant(problem.w), transpose_a=False, transpose_b=True)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": problem.threads,
            "INFERENCE_PRECISION_HINT": self.hint,
        }
        with own_signal_stack():
            compiled = ov.Core().compile_model(ov.Model([y], [x]), "CPU", settings)
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(problem.x, shared_memory=True))
        output = request.get_output_tensor()

        def call() -> Any:
            request.infer()
            return output

        return Prepared(call, int(problem.w.nbytes))

    def to_numpy(self, y: Any) -> Any:
        return y.data


class OpenVinoBf16(OpenVino):
    """OpenVINO as it comes on a CPU with products of bf16."""

    name = "openvino-bf16"
    dtype = "bfloat16"
    tolerance = 5e-2
    hint = "bf16"

    def missing(self) -> str | None:
        absent = super().missing()
        if absent is None:
            import openvino as ov

            if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                return "no bf16 on this CPU"
        return absent
