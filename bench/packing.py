"""Packing and unpacking speed, against what torch and scipy do for their own formats."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.cases import find_layer
from bench.contest import Contestant, run_contest
from bench.peers.base import missing_package
from bench.problem import dense_weight, prune
from bench.timing import Budget


def contests(w: Any) -> dict[str, list[Contestant]]:
    import torch

    import prunus

    t, packed = torch.from_numpy(w), prunus.pack(w)
    csr = t.to_sparse_csr()
    back = {
        "prunus": lambda p: p.to_dense(),
        "torch-csr": lambda p: p.to_dense(),
        "scipy-csr": lambda p: p.toarray(),
    }

    def right(peer: str) -> Callable[[Any], bool]:
        return lambda p: np.array_equal(np.asarray(back[peer](p)), w)

    # int8 has one scale per row, max|w| / 127; a weight is off by half of it at most.
    step = np.abs(w).max(axis=1, keepdims=True) / 127

    def close(p: Any) -> bool:
        return bool((np.abs(p.to_dense() - w) <= 0.501 * step).all())

    def same(y: Any) -> bool:
        return np.array_equal(np.asarray(y), w)

    pack = [
        Contestant("prunus", lambda: prunus.pack(w), right("prunus")),
        Contestant("prunus-int8", lambda: prunus.pack(w, dtype="int8"), close),
        Contestant("torch-csr", lambda: t.to_sparse_csr(), right("torch-csr")),
    ]
    unpack = [
        Contestant("prunus", lambda: packed.to_dense(), same),
        Contestant("torch-csr", lambda: csr.to_dense(), same),
    ]
    if missing_package("scipy") is None:
        from scipy.sparse import csr_array

        scipy_csr = csr_array(w)
        pack.append(Contestant("scipy-csr", lambda: csr_array(w), right("scipy-csr")))
        unpack.append(Contestant("scipy-csr", lambda: scipy_csr.toarray(), same))
    return {"pack": pack, "unpack": unpack}


def run_packing(
    shape: tuple[int, int],
    threads: int,
    sparsities: tuple[float, ...],
    budget: Budget,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Pack and unpack one float32 weight (n, k) at each sparsity."""
    import torch

    from prunus import _core

    torch.set_num_threads(threads)
    _core.set_num_threads(threads)
    dense = dense_weight(find_layer(*shape))
    for sparsity in sparsities:
        w = prune(dense, sparsity, "unstructured")
        for what, field in contests(w).items():
            case = {"record": "pack", "what": what, "n": shape[0], "k": shape[1], "threads": threads}
            yield from run_contest({**case, "sparsity": sparsity}, w.nbytes, field, budget, say)
