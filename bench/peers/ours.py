"""prunus: pack once, then prunus.linear on torch tensors (or numpy arrays)."""

from typing import Any

import numpy as np

from bench.peers.base import Peer, Prepared, missing_package
from bench.problem import Problem


class Prunus(Peer):
    """prunus.pack + prunus.linear through the torch op."""

    def __init__(self, dtype: str = "float32", pattern: str = "unstructured", numpy: bool = False) -> None:
        suffix = [
            part for part, on in ((dtype, dtype != "float32"), (pattern, pattern != "unstructured")) if on
        ]
        self.name = "-".join(["prunus", *suffix, *(["numpy"] if numpy else [])])  # type: ignore[misc]
        self.dtype = dtype  # type: ignore[misc]
        self.tolerance = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3, "int8": 5e-2}[dtype]  # type: ignore[misc]
        self.patterns = (pattern,)
        self.numpy = numpy
        self.on_request = (
            numpy  # the same kernels as through torch: worth a look only for the call's overhead
        )

    def missing(self) -> str | None:
        import prunus

        try:
            prunus.pack(np.eye(16, dtype=np.float32), dtype=self.dtype)
        except ValueError as error:
            return f"pack: {error}"
        return None if self.numpy else missing_package("torch")

    def supports(self, problem: Problem) -> bool:
        return True

    def set_threads(self, threads: int) -> None:
        from prunus import _core

        _core.set_num_threads(threads)  # without torch; with torch its own number rules

    def prepare(self, problem: Problem) -> Prepared:
        import prunus

        packed = prunus.pack(problem.w, dtype=self.dtype)
        x, bias = problem.x, problem.bias
        if not self.numpy:
            import torch

            x = torch.from_numpy(x)
            bias = None if bias is None else torch.from_numpy(bias)
        linear, activation = prunus.linear, problem.activation
        return Prepared(lambda: linear(x, packed, bias, activation), packed.nbytes, packed.format)

    def to_numpy(self, y: Any) -> Any:
        return y if self.numpy else y.numpy()


class PrunusDot(Peer):
    """Format dot: products of int8 or bfloat16, of a pruned weight or (pattern "dense") of a whole one."""

    def __init__(self, dtype: str, pattern: str = "dense") -> None:
        self.name = f"prunus-dot-{dtype}-{pattern}"  # type: ignore[misc]
        self.dtype = dtype  # type: ignore[misc]
        # Of the largest error over the root mean square: int8 rounds every activation of a token alike.
        self.tolerance = {"bfloat16": 5e-2, "int8": 2e-1}[dtype]  # type: ignore[misc]
        self.patterns = () if pattern == "dense" else (pattern,)
        self.on_request = True  # the suite "dot" has them

    def missing(self) -> str | None:
        return missing_package("torch")

    def supports(self, problem: Problem) -> bool:
        return True

    def prepare(self, problem: Problem) -> Prepared:
        import torch

        import prunus

        packed = prunus.pack(problem.w, dtype=self.dtype, format="dot")
        x = torch.from_numpy(problem.x)
        if self.dtype == "bfloat16":
            x = x.bfloat16()
        bias = None if problem.bias is None else torch.from_numpy(problem.bias)
        kernel = str(packed.explain(len(problem.x))["kernel"])
        return Prepared(lambda: prunus.linear(x, packed, bias, problem.activation), packed.nbytes, kernel)

    def to_numpy(self, y: Any) -> Any:
        return y.float().numpy()
