"""Scores to masks and normalisation: what a pruning tool does besides the kernels."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.contest import Contestant, run_contest
from bench.peers.dense import limit_blas
from bench.timing import Budget

Mask = NDArray[np.bool_]


def agrees(mask: Any, exact: Mask) -> bool:
    """Random scores have few ties; a peer that breaks them otherwise may differ in a handful of places."""
    return int(np.count_nonzero(np.asarray(mask) != exact)) <= 1e-5 * exact.size + 1


def tensor_contest(scores: NDArray[np.float32], sparsity: float) -> list[Contestant]:
    import torch
    from torch.nn.utils.prune import L1Unstructured

    import prunus

    t = torch.from_numpy(scores)
    pruned = int(np.floor(sparsity * scores.size + 0.5))
    exact = scores > np.partition(scores.ravel(), pruned - 1)[pruned - 1]
    pattern = prunus.Unstructured(sparsity)
    l1 = L1Unstructured(pruned)
    ones = torch.ones_like(t)

    def topk() -> Any:
        mask = torch.zeros(t.numel(), dtype=torch.bool)
        mask[torch.topk(t.view(-1), t.numel() - pruned, sorted=False).indices] = True
        return mask.view_as(t)

    def of(peer: str, call: Callable[[], Any]) -> Contestant:
        return Contestant(peer, call, lambda mask: agrees(mask, exact))

    fast = [
        of("prunus", lambda: prunus.select(scores, pattern)),
        of("numpy.partition", lambda: scores > np.partition(scores.ravel(), pruned - 1)[pruned - 1]),
        of("torch.kthvalue", lambda: t > torch.kthvalue(t.view(-1), pruned).values),
        of("torch.topk", topk),
    ]
    if sparsity != 0.5:  # a sort, seconds long, takes what it takes at any sparsity
        return fast
    return [
        *fast,
        of("torch.sort", lambda: t > torch.sort(t.view(-1)).values[pruned - 1]),
        of("numpy.sort", lambda: scores > np.sort(scores, axis=None)[pruned - 1]),
        of("torch.nn.utils.prune", lambda: l1.compute_mask(t, ones).bool()),
    ]


def row_contest(scores: NDArray[np.float32], sparsity: float) -> list[Contestant]:
    import torch

    import prunus

    t = torch.from_numpy(scores)
    pruned = int(np.floor(sparsity * scores.shape[1] + 0.5))
    exact = scores > np.partition(scores, pruned - 1, axis=1)[:, pruned - 1 : pruned]
    pattern = prunus.Unstructured(sparsity, scope="row")

    def sort_scatter() -> Any:  # the public Wanda code's way
        indices = torch.sort(t, dim=-1, stable=True).indices[:, :pruned]
        return torch.ones_like(t, dtype=torch.bool).scatter_(1, indices, False)

    def of(peer: str, call: Callable[[], Any]) -> Contestant:
        return Contestant(peer, call, lambda mask: agrees(mask, exact))

    return [
        of("prunus", lambda: prunus.select(scores, pattern)),
        of("torch.sort", sort_scatter),
        of("torch.kthvalue", lambda: t > torch.kthvalue(t, pruned, dim=1, keepdim=True).values),
        of(
            "numpy.partition",
            lambda: scores > np.partition(scores, pruned - 1, axis=1)[:, pruned - 1 : pruned],
        ),
    ]


def group_contest(scores: NDArray[np.float32]) -> list[Contestant]:
    """2:4."""
    import torch

    import prunus

    t, pattern = torch.from_numpy(scores), prunus.NM(2, 4)
    exact = np.zeros(scores.shape, bool)
    np.put_along_axis(
        exact.reshape(-1, 4), np.argpartition(scores.reshape(-1, 4), 1, axis=1)[:, 2:], True, axis=1
    )

    def topk() -> Any:
        groups = t.view(-1, 4)
        mask = torch.zeros_like(groups, dtype=torch.bool)
        return mask.scatter_(1, groups.topk(2, dim=1).indices, True).view_as(t)

    def of(peer: str, call: Callable[[], Any]) -> Contestant:
        return Contestant(peer, call, lambda mask: agrees(mask, exact))

    return [of("prunus", lambda: prunus.select(scores, pattern)), of("torch.topk", topk)]


def normalize_contest(w: NDArray[np.float32]) -> list[Contestant]:
    import torch

    import prunus

    t = torch.from_numpy(w)
    present = np.zeros_like(w)
    exact = w / np.sqrt((w.astype(np.float64) ** 2).sum(axis=1, keepdims=True))

    def of(peer: str, call: Callable[[], Any]) -> Contestant:
        return Contestant(peer, call, lambda y: float(np.abs(np.asarray(y) - exact).max()) < 1e-6)

    return [
        of("prunus", lambda: prunus.normalize(w, axis=1)),
        of("torch.F.normalize", lambda: torch.nn.functional.normalize(t, dim=1)),
        of("numpy", lambda: w / np.linalg.norm(w, axis=1, keepdims=True)),
        # A read and a write of the tensor, for scale: as `normalize` does it, into memory fresh from the
        # system, and into memory that is there.
        Contestant("(one copy, fresh)", lambda: w.copy(), lambda y: np.array_equal(y, w)),
        Contestant("(one copy)", lambda: np.copyto(present, w), lambda _: np.array_equal(present, w)),
    ]


def run_selection(
    shape: tuple[int, int], threads: int, budget: Budget, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Tensor, row and 2:4 masks and row normalisation of one float32 tensor (n, k)."""
    import torch

    from prunus import _core

    torch.set_num_threads(threads)
    _core.set_num_threads(threads)
    limit_blas(threads)
    w = np.random.default_rng(shape).standard_normal(shape, dtype=np.float32)
    scores = np.abs(w)
    contests = {
        "tensor 50 %": lambda: tensor_contest(scores, 0.5),
        "tensor 90 %": lambda: tensor_contest(scores, 0.9),
        "row 50 %": lambda: row_contest(scores, 0.5),
        "2:4": lambda: group_contest(scores),
        "normalize rows": lambda: normalize_contest(w),
    }
    for what, field in contests.items():
        case = {"record": "selection", "what": what, "n": shape[0], "k": shape[1], "threads": threads}
        yield from run_contest(case, w.nbytes, field(), budget, say)
