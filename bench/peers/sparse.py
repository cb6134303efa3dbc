"""Sparse peers that a user can install: torch CSR and BSR, scipy CSR."""

from typing import Any

import numpy as np

from bench.peers.base import Peer, Prepared, missing_package
from bench.peers.dense import TorchPeer
from bench.problem import Problem


class TorchCsr(TorchPeer):
    """w.to_sparse_csr() @ x^T, brought to (m, n). F.linear(x, csr) was measured 5x slower at m = 128."""

    name = "torch-csr"
    patterns = ("unstructured",)

    def prepare(self, problem: Problem) -> Prepared:
        import torch

        w, x = self.convert(torch.from_numpy(problem.w)), torch.from_numpy(problem.x)
        nbytes = w.values().nbytes + w.col_indices().nbytes + w.crow_indices().nbytes
        if problem.m == 1:
            row = x[0]
            return Prepared(lambda: (w @ row).unsqueeze(0), nbytes)
        return Prepared(lambda: (w @ x.t()).t().contiguous(), nbytes)

    def convert(self, w: Any) -> Any:
        return w.to_sparse_csr()


class TorchBsr(TorchCsr):
    """The same with 4x4 blocks, on a weight pruned in 4x4 blocks."""

    name = "torch-bsr"
    patterns = ("4x4",)

    def supports(self, problem: Problem) -> bool:
        n, k = problem.w.shape
        return super().supports(problem) and n % 4 == 0 and k % 4 == 0

    def convert(self, w: Any) -> Any:
        return w.to_sparse_bsr((4, 4))


class ScipyCsr(Peer):
    """scipy.sparse.csr_array @ x^T: one thread."""

    name = "scipy-csr"
    patterns = ("unstructured",)

    def missing(self) -> str | None:
        return missing_package("scipy")

    def supports(self, problem: Problem) -> bool:
        return super().supports(problem) and problem.threads == 1

    def prepare(self, problem: Problem) -> Prepared:
        from scipy.sparse import csr_array

        w, x = csr_array(problem.w), problem.x
        nbytes = w.data.nbytes + w.indices.nbytes + w.indptr.nbytes
        return Prepared(lambda: np.ascontiguousarray((w @ x.T).T), nbytes)
