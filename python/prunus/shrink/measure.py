"""Calibration of structures: statistics of activations, their gradients, and the influence of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.progress import progress
from prunus.calibration.batches import Calibration, real_tokens, run_batch, untouched
from prunus.calibration.ranks import several, summed
from prunus.calibration.recorder import token_rows
from prunus.calibration.walk import walk
from prunus.families import Stack, weight_matrix
from prunus.methods.taylor import Loss
from prunus.shrink.groups import BlockGroups

__all__ = ["Moments", "block_influence", "input_moments", "taylor_scores"]


class Moments:
    """Running mean and sum of squared deviations per column, fp64 (Chan et al.: no cancellation).

    >>> moments = Moments()
    >>> moments.add(torch.tensor([[1.0, 4.0], [3.0, 4.0]]))
    >>> moments.mean.tolist(), moments.variance.tolist()
    ([2.0, 4.0], [1.0, 0.0])
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.mean = torch.zeros(0, dtype=torch.float64, device="cpu")
        self._squares = torch.zeros(0, dtype=torch.float64, device="cpu")

    def add(self, rows: Tensor) -> None:
        """Add activations (tokens, columns)."""
        count = rows.shape[0]
        if count == 0:
            return
        values = rows.detach().double()
        mean = values.mean(0)
        squares = (values - mean).square_().sum(0).cpu()
        mean = mean.cpu()
        if self.tokens == 0:
            self.tokens, self.mean, self._squares = count, mean, squares
            return
        total, shift = self.tokens + count, mean - self.mean
        self._squares += squares + shift.square() * (self.tokens * count / total)
        self.mean = self.mean + shift * (count / total)
        self.tokens = total

    def merge_ranks(self, columns: int) -> None:
        """Become the moments of all processes together (`torch.distributed`)."""
        if not several():
            return
        mine = self.tokens > 0
        mean = self.mean if mine else torch.zeros(columns, dtype=torch.float64, device="cpu")
        squares = self._squares if mine else torch.zeros(columns, dtype=torch.float64, device="cpu")
        tokens = int(summed(torch.tensor(self.tokens, device="cpu")))
        whole = summed(mean * self.tokens) / max(tokens, 1)
        self._squares = summed(squares + (mean - whole).square() * self.tokens)
        self.tokens, self.mean = tokens, whole

    @property
    def variance(self) -> Tensor:
        """Mean squared deviation per column (population variance)."""
        return self._squares / max(self.tokens, 1)


def input_moments(model: nn.Module, found: Sequence[BlockGroups], calibration: Calibration) -> list[Moments]:
    """Moments of the input of every site's output projection over the tokens that are no padding.

    Raises ValueError naming a projection that saw no token or a number that is not finite.
    """
    moments = [Moments() for _ in found]
    run = _Run(model, calibration)
    with untouched(model), ExitStack() as hooks:
        for site, moment in zip(found, moments, strict=True):
            hooks.callback(site.out.register_forward_pre_hook(_adding(moment, run)).remove)
        run.all()
    for site, moment in zip(found, moments, strict=True):
        moment.merge_ranks(site.count * site.per)
        _check(site.name, moment.tokens, moment.variance)
    return moments


def repaired_weights(
    model: nn.Module,
    found: Sequence[BlockGroups],
    keeps: Sequence[Tensor],
    moments: Sequence[Moments],
    calibration: Calibration,
) -> list[Tensor | None]:
    """Per site the best kept columns (n, kept) fp64 of its output projection; None where all groups stay.

    Minimises the mean squared change of the projection's output, a bias being free, over the calibration
    tokens: kept + gone . C_gk . (C_kk + damping)^-1 with the covariance C of its input. One mask for all
    rows, so one factorisation does. A block's covariance is dropped before the next one is measured.
    """
    names = {site.name: index for index, site in enumerate(found) if keeps[index].numel() < site.count}
    new: list[Tensor | None] = [None] * len(found)
    with untouched(model), torch.no_grad():
        layers = {name: [found[index].out] for name, index in names.items()}
        for group in walk(model, layers, replace(calibration, sequential=True), frozenset({"gram"})):
            for name, stats in group.measure().items():
                index = names[name]
                if stats.gram is not None:
                    mean = moments[index].mean
                    covariance = stats.gram.double().cpu() / stats.tokens - torch.outer(mean, mean)
                    new[index] = _least_squares(found[index], found[index].columns(keeps[index]), covariance)
    return new


def _least_squares(site: BlockGroups, kept: Tensor, covariance: Tensor, damping: float = 0.01) -> Tensor:
    weight = weight_matrix(site.out).double().cpu()
    gone = torch.ones(weight.shape[1], dtype=torch.bool, device="cpu")
    gone[kept] = False
    inner = covariance[kept][:, kept]
    diagonal = inner.diagonal()
    # An input that never varies has no say; 1 keeps the system solvable.
    inner = inner + torch.diag(torch.where(diagonal > 0, damping * diagonal, 1.0))
    taken_over: Tensor = torch.linalg.solve(inner, covariance[kept][:, gone] @ weight[:, gone].T)
    return weight[:, kept] + taken_over.T


def taylor_scores(
    model: nn.Module, found: Sequence[BlockGroups], calibration: Calibration, loss: Loss | None
) -> list[Tensor]:
    """Per site (groups,) fp64: mean over tokens of |sum over the columns of activation * gradient|."""
    totals = [torch.zeros(site.count, dtype=torch.float64, device="cpu") for site in found]
    counts = [0] * len(found)
    seen: dict[int, Tensor] = {}

    def capture(index: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            # With every parameter frozen nothing requires a gradient: start the graph here.
            x = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            seen[index] = x
            return (x, *args[1:])

        return hook

    run = _Run(model, calibration)
    with untouched(model), torch.enable_grad(), ExitStack() as hooks:
        for index, site in enumerate(found):
            hooks.callback(site.out.register_forward_pre_hook(capture(index)).remove)
        for batch in run.batches("gradients"):
            seen.clear()
            value = run.loss(batch, loss)
            gradients = torch.autograd.grad(value, list(seen.values()), allow_unused=True)
            for (index, x), gradient in zip(seen.items(), gradients, strict=True):
                if gradient is None:
                    continue
                product = run.tokens(x).double() * run.tokens(gradient).double()
                grouped = product.reshape(-1, found[index].count, found[index].per).sum(2)
                totals[index] += grouped.abs().sum(0).cpu()
                counts[index] += product.shape[0]
    totals = [summed(total) for total in totals]
    counts = summed(torch.tensor(counts, device="cpu")).tolist()
    for site, total, count in zip(found, totals, counts, strict=True):
        _check(site.name, count, total)
    return [total / count for total, count in zip(totals, counts, strict=True)]


def block_influence(model: nn.Module, stack: Stack, calibration: Calibration) -> tuple[Tensor, list[Moments]]:
    """(blocks,) fp64: mean over tokens of 1 - cosine(input, output); and the moments of output - input."""
    totals = torch.zeros(len(stack.layers), dtype=torch.float64, device="cpu")
    moments = [Moments() for _ in stack.layers]
    run = _Run(model, calibration)

    def hook(index: int) -> Callable[..., None]:
        def compare(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            before = run.tokens(args[0] if args else kwargs["hidden_states"]).double()
            after = run.tokens(out[0] if isinstance(out, (tuple, list)) else out).double().to(before.device)
            totals[index] += (1.0 - torch.cosine_similarity(before, after)).sum().cpu()
            moments[index].add(after - before)

        return compare

    with untouched(model), ExitStack() as hooks:
        for index, block in enumerate(stack.layers):
            hooks.callback(block.register_forward_hook(hook(index), with_kwargs=True).remove)
        run.all()
    totals = summed(totals)
    for index, moment in enumerate(moments):
        moment.merge_ranks(weight_matrix(stack.layers[index].get_submodule(stack.family.down)).shape[0])
        _check(f"{stack.name}.{index}", moment.tokens, totals[index])
    counts = torch.tensor([moment.tokens for moment in moments], device="cpu")
    return totals / counts, moments


class _Run:
    """Runs the batches and picks the tokens that are no padding out of the activations of the present one."""

    def __init__(self, model: nn.Module, calibration: Calibration) -> None:
        self.model, self.calibration = model, calibration
        self._real: Tensor | None = None

    def batches(self, label: str) -> Iterator[Any]:
        for batch in progress(list(self.calibration.batches), label, enabled=self.calibration.progress):
            self._real = real_tokens(self.model, batch, self.calibration)
            yield batch

    def all(self) -> None:
        with torch.no_grad():
            for batch in self.batches("calibrating"):
                run_batch(self.model, batch, self.calibration)

    def tokens(self, x: Tensor) -> Tensor:
        """(tokens, columns) of an activation (..., columns)."""
        return token_rows(x.detach(), self._real)

    def loss(self, batch: Any, loss: Loss | None) -> Tensor:
        """The scalar that is differentiated."""
        value: Any
        if loss is not None:
            value = loss(self.model, batch)
        else:
            value = getattr(run_batch(self.model, batch, self.calibration), "loss", None)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(
                "loss: expected a scalar tensor with a gradient; give loss=, or batches with labels"
            )
        return value


def _adding(moment: Moments, run: _Run) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda _, args: moment.add(run.tokens(args[0]))


def _check(name: str, tokens: int, values: Tensor) -> None:
    if tokens == 0:
        raise ValueError(f"calibration: {name} saw no token")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"calibration: expected finite numbers at {name}, got NaN or infinity")
