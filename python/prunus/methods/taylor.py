"""Gradient-based scores: how much a loss given by the user would change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from prunus.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.calibration import Stats

__all__ = ["SNIP", "Taylor"]

#: (model, batch) -> scalar tensor; called with gradients on, the model in evaluation mode.
Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class _Gradient(Method):
    loss: Loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.loss):
            raise TypeError(
                f"loss: expected a function (model, batch) -> scalar, got {type(self.loss).__name__}"
            )

    def __str__(self) -> str:
        return f"{type(self).__name__}(loss, steps={self.steps}, repair={self.repair})"


@dataclass(frozen=True)
class Taylor(_Gradient):
    """score = sum over batches of (w * dloss/dw)^2: the loss change of every batch, to first order.

    loss: (model, batch) -> scalar tensor. Raises TypeError when it is no function.
    Many small batches tell more than one large one: within a batch gradients of samples cancel.
    Source: Molchanov et al., arXiv:1906.10771.

    >>> Taylor(lambda model, batch: model(**batch).loss, steps=4).steps
    4
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad_sq"})
    name: ClassVar[str] = "taylor"

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        """w^2 times the summed squared gradient; float32."""
        assert stats.grad_sq is not None
        return weight.square() * stats.grad_sq


@dataclass(frozen=True)
class SNIP(_Gradient):
    """score = |w * sum over batches of dloss/dw|: connection sensitivity.

    loss: (model, batch) -> scalar tensor. Raises TypeError when it is no function.
    Source: Lee et al., arXiv:1810.02340; with `steps`, iterative SNIP (arXiv:2006.00896).

    >>> SNIP(lambda model, batch: model(batch).sum()).steps
    1
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad_sum"})
    name: ClassVar[str] = "snip"

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        """|w times the summed gradient|; float32."""
        assert stats.grad_sum is not None
        return (weight * stats.grad_sum).abs_()
