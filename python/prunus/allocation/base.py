"""Sharing a budget among layers: what every way of doing so has in common, and the one global budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus._tools.cuda import has_kernels
from prunus.masks import select_global
from prunus.methods.base import Method
from prunus.patterns import Pattern, Unstructured

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["Allocation", "Global", "Key", "Survey"]

#: (layer name, part): rows of a weight that have a budget of their own; part is "" where it is not fused.
Key = tuple[str, str]


class Survey:
    """Sees every layer of the unpruned model once, then says which pattern each gets."""

    def see(self, key: Key, weight: Tensor, stats: Stats) -> Tensor | None:
        """Take note of one weight (n, k), float32, and the statistics of its inputs.

        Returns a weight to try in its place, `felt` is then told what that does to the model; None: no trial.
        """
        raise NotImplementedError

    def felt(self, key: Key, error: float) -> None:
        """The relative squared error of the model's outputs with the trial weight of `see` in this place."""
        raise NotImplementedError

    def patterns(self) -> dict[Key, Pattern]:
        """The pattern of every layer seen."""
        raise NotImplementedError


class Allocation:
    """A rule that gives every layer its own pattern; `prune_` takes it in place of one pattern for all.

    A subclass gives `needs` and `survey`.

    >>> from prunus.allocation import OWL
    >>> from prunus.patterns import Unstructured
    >>> isinstance(OWL(Unstructured(0.7, scope="row")), Allocation)
    True
    """

    def needs(self, method: Method) -> frozenset[str]:
        """The statistics the survey looks at (`prunus.Stats`)."""
        raise NotImplementedError

    def survey(self, method: Method) -> Survey:
        """A fresh survey for one run with `method`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Global(Allocation):
    """One budget over all layers: the lowest scores of the whole model go, wherever they are.

    `Unstructured(s, scope="model")` is this. Needs the scores of all layers in memory at once.

    >>> Global(0.5).sparsity
    0.5
    """

    sparsity: float

    def needs(self, method: Method) -> frozenset[str]:
        """What the method's scores need."""
        return method.needs

    def survey(self, method: Method) -> Survey:
        """Collects scores; one exact selection over all of them at the end."""
        return _GlobalSurvey(self.sparsity, method)


class _GlobalSurvey(Survey):
    def __init__(self, sparsity: float, method: Method) -> None:
        self.sparsity, self.method = sparsity, method
        self.scores: dict[Key, Tensor] = {}

    def see(self, key: Key, weight: Tensor, stats: Stats) -> None:
        scores = self.method.scores(weight, stats)
        self.scores[key] = (scores if has_kernels(scores) else scores.cpu()).contiguous()

    def patterns(self) -> dict[Key, Pattern]:
        every = list(self.scores.values())
        if len({scores.device for scores in every}) > 1:  # of a model on several
            every = [scores.cpu() for scores in every]
        masks = select_global(every, self.sparsity)
        # The same scores, selected per layer with the share the layer got, give the same mask again.
        shares = [1.0 - float(mask.sum()) / mask.numel() for mask in masks]
        return {key: Unstructured(s) for key, s in zip(self.scores, shares, strict=True)}
