"""Calibration of structures: statistics of activations, their gradients, and the influence of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from prunus.families import Stack, stacks, weight_matrix
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
    run = _Run(model, _stacks_of(found), calibration)
    with untouched(model), ExitStack() as hooks:
        for site, moment in zip(found, moments, strict=True):
            if site.expert is None:
                handle = site.out.register_forward_pre_hook(_adding(moment, run, site.stack))
            else:
                module = site.block.get_submodule(site.stack.family.experts)
                handle = module.register_forward_pre_hook(_adding_expert(moment, run, site, site.expert))
            hooks.callback(handle.remove)
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
        for stack in _stacks_of(found):
            layers = {name: [found[i].out] for name, i in names.items() if found[i].stack.name == stack.name}
            how = replace(_for_stack(model, stack, calibration), sequential=True)
            for group in walk(model, layers, how, frozenset({"gram"})) if layers else ():
                for name, stats in group.measure().items():
                    index = names[name]
                    if stats.gram is not None:
                        mean = moments[index].mean
                        covariance = stats.gram.double().cpu() / stats.tokens - torch.outer(mean, mean)
                        kept = found[index].columns(keeps[index])
                        new[index] = _least_squares(found[index], kept, covariance)
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
    seen: list[tuple[int, Tensor]] = []  # a shared block is called several times

    def capture(index: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            # With every parameter frozen nothing requires a gradient: start the graph here.
            x = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            seen.append((index, x))
            return (x, *args[1:])

        return hook

    run = _Run(model, _stacks_of(found), calibration)
    with untouched(model), torch.enable_grad(), ExitStack() as hooks:
        for index, site in enumerate(found):
            hooks.callback(site.out.register_forward_pre_hook(capture(index)).remove)
        for batch in run.batches("gradients"):
            seen.clear()
            value = run.loss(batch, loss)
            gradients = torch.autograd.grad(value, [x for _, x in seen], allow_unused=True)
            for (index, x), gradient in zip(list(seen), gradients, strict=True):
                if gradient is None:
                    continue
                stack = found[index].stack
                product = run.tokens(x, stack).double() * run.tokens(gradient, stack).double()
                grouped = product.reshape(-1, found[index].count, found[index].per).sum(2)
                totals[index] += grouped.abs().sum(0).cpu()
                counts[index] += product.shape[0]
    totals = [summed(total) for total in totals]
    counts = summed(torch.tensor(counts, device="cpu")).tolist()
    for site, total, count in zip(found, totals, counts, strict=True):
        _check(site.name, count, total)
    return [total / count for total, count in zip(totals, counts, strict=True)]


def block_influence(
    model: nn.Module, found: Sequence[Stack], calibration: Calibration
) -> list[tuple[Tensor, list[Moments]]]:
    """Per stack (blocks,) fp64, mean over tokens of 1 - cosine(input, output); moments of output - input."""
    totals = [torch.zeros(len(stack.layers), dtype=torch.float64, device="cpu") for stack in found]
    moments = [[Moments() for _ in stack.layers] for stack in found]
    run = _Run(model, found, calibration)

    def hook(place: int, index: int) -> Callable[..., None]:
        def compare(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            stack = found[place]
            before = run.tokens(args[0] if args else kwargs["hidden_states"], stack).double()
            after = run.tokens(out[0] if isinstance(out, (tuple, list)) else out, stack).double()
            after = after.to(before.device)
            totals[place][index] += (1.0 - torch.cosine_similarity(before, after)).sum().cpu()
            moments[place][index].add(after - before)

        return compare

    with untouched(model), ExitStack() as hooks:
        for place, stack in enumerate(found):
            for index, block in enumerate(stack.layers):
                hooks.callback(block.register_forward_hook(hook(place, index), with_kwargs=True).remove)
        run.all()
    totals = [summed(total) for total in totals]
    for stack, total, own in zip(found, totals, moments, strict=True):
        for index, moment in enumerate(own):
            moment.merge_ranks(weight_matrix(stack.layers[index].get_submodule(stack.family.o)).shape[0])
            _check(f"{stack.name}.{index}", moment.tokens, total[index])
    counts = [torch.tensor([moment.tokens for moment in own], device="cpu") for own in moments]
    return [(total / count, own) for total, count, own in zip(totals, counts, moments, strict=True)]


def _stacks_of(found: Sequence[BlockGroups]) -> list[Stack]:
    return list({site.stack.name: site.stack for site in found}.values())


def _for_stack(model: nn.Module, stack: Stack, calibration: Calibration) -> Calibration:
    """With the padding of what this stack reads: a decoder has its own mask, patches of a picture none."""
    if calibration.real is not None or len(stacks(model)) == 1:
        return calibration
    if stack.family.cross:
        return replace(calibration, real=_decoder_mask)
    pictures = stack.config is not None and not hasattr(stack.config, "vocab_size")
    return replace(calibration, real=lambda _: None) if pictures else calibration


def _decoder_mask(batch: Any) -> Tensor | None:
    mask = batch.get("decoder_attention_mask") if isinstance(batch, Mapping) else None
    return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None


class _Run:
    """Runs the batches and picks the tokens that are no padding out of the activations of the present one."""

    def __init__(self, model: nn.Module, found: Sequence[Stack], calibration: Calibration) -> None:
        self.model, self.calibration = model, calibration
        self._how = {stack.name: _for_stack(model, stack, calibration) for stack in found}
        self._real: dict[str, Tensor | None] = {}

    def batches(self, label: str) -> Iterator[Any]:
        for batch in progress(list(self.calibration.batches), label, enabled=self.calibration.progress):
            self._real = {name: real_tokens(self.model, batch, how) for name, how in self._how.items()}
            yield batch

    def all(self) -> None:
        with torch.no_grad():
            for batch in self.batches("calibrating"):
                run_batch(self.model, batch, self.calibration)

    def tokens(self, x: Tensor, stack: Stack) -> Tensor:
        """(tokens, columns) of an activation (..., columns) inside of a stack."""
        return token_rows(x.detach(), self._real[stack.name])

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


def _adding(moment: Moments, run: _Run, stack: Stack) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda _, args: moment.add(run.tokens(args[0], stack))


def _adding_expert(
    moment: Moments, run: _Run, site: BlockGroups, expert: int
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """From what the experts of a block are called with: tokens, the experts of each, and their shares."""
    # Both parts are rows of one weight, which is not copied.
    gate, up = (slot.rows(torch.arange(site.count, device="cpu")) for slot in site.slots)
    weight, act = weight_matrix(site.slots[0].module), site.activation()

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        x, chosen, shares = (run.tokens(tensor, site.stack) for tensor in args[:3])
        token, place = torch.nonzero(chosen.eq(expert), as_tuple=True)
        both = nn.functional.linear(x[token], weight)
        moment.add(act(both[:, gate]) * both[:, up] * shares[token, place, None])

    return hook


def _check(name: str, tokens: int, values: Tensor) -> None:
    if tokens == 0:
        raise ValueError(f"calibration: {name} saw no token")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"calibration: expected finite numbers at {name}, got NaN or infinity")
