"""What is done in one pass against doing it in steps: activation, residual sum, gated product, q, k and v."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.cases import find_layer
from bench.contest import Contestant, run_contest
from bench.problem import dense_weight, inputs, prune, relative_error
from bench.timing import Budget

TOLERANCE = 1e-4


def contests(w: Any, v: Any, x: Any) -> dict[str, list[Contestant]]:
    """Two weights (n, k) and x (m, k)."""
    import torch
    import torch.nn.functional as F

    import prunus
    from prunus.nn.shared import SharedLinear, SideBySide

    w, v, x = (torch.from_numpy(np.ascontiguousarray(a)) for a in (w, v, x))
    p, q = prunus.pack(w), prunus.pack(v)
    three = [w, v, w.flip(0)]
    alone = [prunus.SparseLinear.from_packed(prunus.pack(one)).requires_grad_(False) for one in three]
    side_by_side = SideBySide(dict(zip("qkv", SharedLinear.of(alone), strict=True)))
    bias, residual = torch.linspace(-1, 1, w.shape[0]), torch.randn(x.shape[0], w.shape[0])
    contenders: dict[str, dict[str, Callable[[], Any]]] = {
        "bias and gelu": {
            "torch": lambda: F.gelu(F.linear(x, w, bias)),
            "prunus, in steps": lambda: F.gelu(prunus.linear(x, p, bias)),
            "prunus": lambda: prunus.linear(x, p, bias, "gelu"),
        },
        "residual": {
            "torch": lambda: F.linear(x, w, bias) + residual,
            "prunus, in steps": lambda: prunus.linear(x, p, bias) + residual,
            "prunus": lambda: prunus.linear(x, p, bias, residual=residual),
        },
        "gated silu": {
            "torch": lambda: F.silu(F.linear(x, w)) * F.linear(x, v),
            "prunus, in steps": lambda: F.silu(prunus.linear(x, p)) * prunus.linear(x, q),
            "prunus, activation fused": lambda: prunus.linear(x, p, activation="silu") * prunus.linear(x, q),
            "prunus": lambda: prunus.gated(x, p, q),
        },
        "query key value": {
            "torch": lambda: torch.cat([F.linear(x, one) for one in three], -1),
            "prunus, in steps": lambda: torch.cat([layer(x) for layer in alone], -1),
            "prunus": lambda: side_by_side(x),
        },
    }
    fields = {}
    for what, calls in contenders.items():
        expected = calls["torch"]().double().numpy()

        def right(y: Any, expected: Any = expected) -> bool:
            return relative_error(y.numpy(), expected) < TOLERANCE

        fields[what] = [Contestant(peer, call, right) for peer, call in calls.items()]
    return fields


def run_fusions(
    shape: tuple[int, int],
    m: int,
    threads: int,
    sparsities: tuple[float, ...],
    budget: Budget,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Every fusion at each sparsity, for m tokens; the weights may sit in the caches."""
    import torch

    torch.set_num_threads(threads)
    (n, k), layer = shape, find_layer(*shape)
    dense, (x, _) = dense_weight(layer), inputs(layer, m)
    for sparsity in sparsities:
        w = prune(dense, sparsity, "unstructured")
        v = np.ascontiguousarray(w[:, ::-1])  # another weight of the same kind
        for what, field in contests(w, v, x).items():
            case = {"record": "fusion", "what": what, "n": n, "k": k, "m": m, "threads": threads}
            yield from run_contest({**case, "sparsity": sparsity}, w.nbytes, field, budget, say)
