"""One step of training a layer: forward, the gradients of x, of the weight and of the bias."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from bench.cases import find_layer
from bench.contest import Contestant, run_contest
from bench.problem import dense_weight, inputs, prune, relative_error
from bench.timing import Budget

# Of the root mean square of each answer.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1}
STEP, GRADIENT = "step", "gradient of the values"


class Step:
    """forward and backward of one layer; the answers are y and the gradients of x, weight and bias."""

    def __init__(self, layer: Any, x: Any, grad: Any, bfloat16: bool) -> None:
        import torch

        self.layer, self.x, self.bfloat16 = layer, x.clone().requires_grad_(), bfloat16
        self.grad = grad.to(torch.bfloat16) if bfloat16 else grad

    def around(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else nullcontext()

    def __call__(self) -> tuple[Any, ...]:
        weight = getattr(self.layer, "values", None)
        if weight is None:
            weight = self.layer.weight
        else:
            # As an optimiser does: what was packed before is old. One sign changes nothing that is timed.
            weight.data[:1].neg_()
        self.x.grad = weight.grad = self.layer.bias.grad = None
        with self.around():
            y = self.layer(self.x)
        y.backward(self.grad)
        return y.detach(), self.x.grad, weight.grad, self.layer.bias.grad


def contests(w: Any, x: Any, bias: Any) -> dict[str, list[Contestant]]:
    """w (n, k), zeros where pruned, x (m, k)."""
    import torch

    import prunus

    n, k = w.shape
    dense = torch.nn.Linear(k, n)
    dense.weight.data, dense.bias.data = torch.from_numpy(w), torch.from_numpy(bias)
    layer = prunus.SparseLinear.from_linear(dense, trainable=True)
    x = torch.from_numpy(x)
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(x.shape[0], n, generator=generator)
    exact = reference(w, x, bias, grad)
    kept = w != 0

    def right(sparse: bool, kind: str) -> Callable[[Any], bool]:
        def look(answers: tuple[Any, ...]) -> bool:
            errors = []
            for i, (answer, expected) in enumerate(zip(answers, exact, strict=True)):
                wanted = expected[kept] if sparse and i == 2 else expected
                errors.append(relative_error(answer.float().numpy(), wanted))
            return max(errors) < TOLERANCES[kind]

        return look

    def contestant(peer: str, layer: Any, kind: str, sparse: bool) -> Contestant:
        step = Step(layer, x, grad, kind == "bfloat16")
        if sparse:
            step()  # turns a sign; the next call, whose answer is looked at, turns it back
        return Contestant(peer, step, right(sparse, kind))

    steps = [
        contestant("torch", dense, "float32", False),
        contestant("torch-bf16", dense, "bfloat16", False),
        contestant("prunus", layer, "float32", True),
        contestant("prunus-bf16", prunus.SparseLinear.from_linear(dense, trainable=True), "bfloat16", True),
    ]
    return {STEP: steps, GRADIENT: gradients(layer, x, grad, exact[2], kept)}


def reference(w: Any, x: Any, bias: Any, grad: Any) -> list[Any]:
    """In float64: y, and the gradients of x, w and the bias."""
    x, grad, w = x.double().numpy(), grad.double().numpy(), w.astype(np.float64)
    return [x @ w.T + bias, grad @ w, grad.T @ x, grad.sum(axis=0)]


def gradients(layer: Any, x: Any, grad: Any, exact: Any, kept: Any) -> list[Contestant]:
    """The gradient of the weight alone: whole, or of what is kept."""
    import torch

    index = layer._index
    halves = [t.to(torch.bfloat16) for t in (grad, x)]
    call = torch.ops.prunus.values_gradient.default
    whole = TOLERANCES["float32"]

    def right(sparse: bool, most: float) -> Callable[[Any], bool]:
        expected = exact[kept] if sparse else exact
        return lambda answer: relative_error(answer.float().numpy(), expected) < most

    return [
        Contestant("torch", lambda: grad.T @ x, right(False, whole)),
        Contestant("torch-bf16", lambda: halves[0].T @ halves[1], right(False, TOLERANCES["bfloat16"])),
        Contestant("prunus", lambda: call(grad, x, index.first, index.columns), right(True, whole)),
        Contestant(
            "prunus-bf16",
            lambda: call(*halves, index.first, index.columns),
            right(True, TOLERANCES["bfloat16"]),
        ),
    ]


def run_training(
    shape: tuple[int, int],
    m: int,
    threads: int,
    sparsities: tuple[float, ...],
    budget: Budget,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """The whole step, and the gradient of the values alone, at each sparsity, for m tokens."""
    import torch

    torch.set_num_threads(threads)
    (n, k), layer = shape, find_layer(*shape)
    dense, (x, bias) = dense_weight(layer), inputs(layer, m)
    for sparsity in sparsities:
        w = prune(dense, sparsity, "unstructured")
        nnz = int(np.count_nonzero(w))
        for what, field in contests(w, x, bias).items():
            case = {"record": "train", "what": what, "n": n, "k": k, "m": m, "threads": threads}
            for record in run_contest({**case, "sparsity": sparsity}, w.nbytes, field, budget, say):
                entries = nnz if record["peer"].startswith("prunus") else n * k
                products = 3 if what == STEP else 1
                yield {**record, "gflops": 2e-3 * products * entries * m / record["median_us"]}
