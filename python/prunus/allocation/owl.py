"""OWL: layers whose inputs have outliers keep more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prunus.allocation.base import Allocation, Key, Survey
from prunus.methods.base import Method
from prunus.patterns import Block, Pattern, Unstructured

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["OWL"]


@dataclass(frozen=True)
class OWL(Allocation):
    """The share of outliers of a layer decides how much more or less than the mean it loses.

    D = share of entries with |w_ij| * ||x_j||_2 above `outlier` times their mean. Sparsities fall linearly
    with D over a range of 2 * spread, placed so that the whole model meets `pattern.sparsity` = s. A spread
    above min(s, 1 - s) / 2 counts as that: no layer can leave 0..1.
    pattern: Unstructured or Block. Needs a calibration.

    Raises TypeError for another pattern, ValueError for scope "model", outlier <= 0 or a spread outside
    0..0.5. Source: Yin et al., arXiv:2310.05175.

    >>> OWL(Unstructured(0.7)).spread
    0.08
    """

    pattern: Unstructured | Block
    outlier: float = 5.0
    spread: float = 0.08

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, (Unstructured, Block)):
            kind = type(self.pattern).__name__
            raise TypeError(f"pattern: expected Unstructured or Block, got {kind}")
        if isinstance(self.pattern, Unstructured) and self.pattern.scope == "model":
            raise ValueError("pattern: expected scope tensor, row or column, got model")
        if not self.outlier > 0:
            raise ValueError(f"outlier: expected > 0, got {self.outlier}")
        if not 0 <= self.spread <= 0.5:
            raise ValueError(f"spread: expected 0..0.5, got {self.spread}")

    def needs(self, method: Method) -> frozenset[str]:
        """Input norms."""
        return frozenset({"sumsq"})

    def survey(self, method: Method) -> Survey:
        """Collects the share of outliers of every layer."""
        return _OutlierSurvey(self)


class _OutlierSurvey(Survey):
    def __init__(self, rule: OWL) -> None:
        self.rule = rule
        self.shares: dict[Key, tuple[float, int]] = {}

    def see(self, key: Key, weight: Tensor, stats: Stats) -> None:
        assert stats.sumsq is not None
        scores = weight.abs() * stats.sumsq.sqrt().to(weight.dtype)
        share = float((scores > self.rule.outlier * scores.mean()).float().mean())
        self.shares[key] = share, weight.numel()

    def patterns(self) -> dict[Key, Pattern]:
        shares = [share for share, _ in self.shares.values()]
        low, high = min(shares), max(shares)
        sparsity = self.rule.pattern.sparsity
        spread = min(self.rule.spread, sparsity / 2, (1.0 - sparsity) / 2)
        width = 2.0 * spread / (high - low) if high > low else 0.0
        more = {key: (share - low) * width for key, (share, _) in self.shares.items()}
        total = sum(size for _, size in self.shares.values())
        mean = sum(more[key] * size for key, (_, size) in self.shares.items()) / total
        # Only rounding can leave 0..1 here.
        found = {key: min(1.0, max(0.0, sparsity + mean - extra)) for key, extra in more.items()}
        return {key: replace(self.rule.pattern, sparsity=s) for key, s in found.items()}
