"""Dense peers: torch (fp32, bf16, compiled, dynamic int8) and numpy."""

from typing import Any

import numpy as np

from bench.peers.base import Peer, Prepared, missing_package
from bench.problem import Problem


class TorchPeer(Peer):
    def missing(self) -> str | None:
        return missing_package("torch")

    def set_threads(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def to_numpy(self, y: Any) -> Any:
        return y.float().numpy()


class Torch(TorchPeer):
    """torch.nn.functional.linear in fp32, then the activation: the peer all ratios are made against."""

    name = "torch"

    def supports(self, problem: Problem) -> bool:
        return True

    def prepare(self, problem: Problem) -> Prepared:
        import torch.nn.functional as F

        x, w, bias = self.tensors(problem)
        activation = getattr(F, problem.activation) if problem.activation else None
        if activation is None:
            return Prepared(lambda: F.linear(x, w, bias), w.nbytes)
        return Prepared(lambda: activation(F.linear(x, w, bias)), w.nbytes)

    def tensors(self, problem: Problem) -> tuple[Any, Any, Any]:
        import torch

        kind = getattr(torch, self.dtype)
        bias = None if problem.bias is None else torch.from_numpy(problem.bias).to(kind)
        w = torch.from_numpy(problem.w).to(kind, copy=True)
        return torch.from_numpy(problem.x).to(kind), w, bias


class TorchBf16(Torch):
    name = "torch-bf16"
    dtype = "bfloat16"
    tolerance = 5e-2
    slow = True  # 6x slower than fp32 without AVX512-BF16 or AMX


class TorchCompiled(Torch):
    """torch.compile with frozen weights, which inductor packs for its GEMM."""

    name = "torch-compiled"
    slow = True

    def prepare(self, problem: Problem) -> Prepared:
        import torch

        x, w, bias = self.tensors(problem)
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=bias is not None).eval().requires_grad_(False)
        layer.weight.data = w
        if bias is not None:
            layer.bias.data = bias
        activations = {
            None: [],
            "gelu": [torch.nn.GELU()],
            "relu": [torch.nn.ReLU()],
            "silu": [torch.nn.SiLU()],
        }
        model = torch.nn.Sequential(layer, *activations[problem.activation]).eval()
        compiled = torch.compile(model, dynamic=False, options={"freezing": True})
        with torch.no_grad():
            compiled(x)

        def call() -> Any:
            with torch.no_grad():
                return compiled(x)

        return Prepared(call, w.nbytes)


class TorchInt8(TorchPeer):
    """torch's dynamic int8 Linear (FBGEMM or oneDNN): activations quantised at every call."""

    name = "torch-int8"
    dtype = "int8"
    tolerance = 0.2

    def missing(self) -> str | None:
        if absent := missing_package("torch"):
            return absent
        import torch

        if not {"x86", "fbgemm"} & set(torch.backends.quantized.supported_engines):
            return "this torch has no int8 engine"
        return None

    def prepare(self, problem: Problem) -> Prepared:
        import torch

        w, x = torch.from_numpy(problem.w), torch.from_numpy(problem.x)
        scales = w.abs().amax(dim=1).clamp_min(1e-12).double() / 127
        quantised = torch.quantize_per_channel(
            w, scales, torch.zeros(len(w), dtype=torch.long), 0, torch.qint8
        )
        bias = None if problem.bias is None else torch.from_numpy(problem.bias)
        packed = torch.ops.quantized.linear_prepack(quantised, bias)
        run = torch.ops.quantized.linear_dynamic
        return Prepared(lambda: run(x, packed, True), w.numel(), torch.backends.quantized.engine)


class Numpy(Peer):
    """numpy.matmul into a ready output: OpenBLAS in the wheels."""

    name = "numpy"

    def set_threads(self, threads: int) -> None:
        limit_blas(threads)

    def prepare(self, problem: Problem) -> Prepared:
        x, wt = problem.x, problem.w.copy().T
        y = np.empty((problem.m, wt.shape[1]), np.float32)
        if problem.bias is None:
            return Prepared(lambda: np.matmul(x, wt, out=y), wt.nbytes)
        bias = problem.bias
        return Prepared(lambda: np.add(np.matmul(x, wt, out=y), bias, out=y), wt.nbytes)


def limit_blas(threads: int) -> None:
    """For the life of the process. Only BLAS pools: the OpenMP pool is torch's."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=threads, user_api="blas")
