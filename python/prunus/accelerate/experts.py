"""Experts of mixtures: their matrices race like layers, then the experts of a block as a whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.timing import Racer, take_laps
from prunus.accelerate.fused import MAX_PASSES, MIN_PASSES, SECONDS
from prunus.accelerate.survey import MIN_SPARSITY, Holders, Site, describe, why_fixed
from prunus.accelerate.together import Chosen
from prunus.families import FilterFn, memory, owners
from prunus.families.experts import EXPERTS_IN, experts
from prunus.nn.experts import Experts, chosen_tokens, why_whole
from prunus.ops.registered import autocast_dtype

__all__ = ["Mixture", "mixtures_of", "race_mixtures", "seeing"]

ARGUMENTS = ("hidden_states", "top_k_index", "top_k_weights")
GAIN = "gain of its experts together below {:.2f}x"


@dataclass
class Call:
    """What the experts of a block were called with, but for the values of x."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chosen: Tensor
    shares: Tensor


@dataclass
class Mixture:
    """The experts of one block, as they came and with a layer per matrix.

    sites: of all matrices; their places are in `split`, which is None where they cannot be converted.
    """

    name: str
    module: nn.Module
    places: list[tuple[nn.Module, str]]
    split: Any
    sites: list[Site]
    calls: list[Call] = field(default_factory=list)

    def put(self, chosen: Collection[int]) -> bool:
        """The split experts in the model, where any id of a site is in `chosen`; else as they came."""
        packed = any(id(site) in chosen for site in self.sites)
        for parent, leaf in self.places:
            parent._modules[leaf] = self.split if packed else self.module
        return packed


def mixtures_of(
    model: nn.Module, filter_fn: FilterFn | None, at_least: float = MIN_SPARSITY, trainable: bool = False
) -> list[Mixture]:
    """All experts in 3-D parameters, with a site for each of their matrices and maybe the reason why it
    stays dense. at_least: zeros."""
    found: dict[int, Mixture] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not any(True for _ in experts(module)):
            continue
        if id(module) not in found:
            found[id(module)] = _mixture(name, module)
        parent, _, leaf = name.rpartition(".")
        if name:
            found[id(module)].places.append((model.get_submodule(parent), leaf))
    holders = owners(model) if found else {}
    for mixture in found.values():
        fixed = _why_fixed(mixture, holders, trainable)
        for site in mixture.sites:
            describe(site)
            site.settle(why_fixed(site) or fixed, filter_fn, at_least)
    return list(found.values())


def _why_fixed(mixture: Mixture, holders: Holders, trainable: bool) -> str:
    """Why all the experts of a block stay as they are; "": they need not."""
    held = [(p, holders[memory(p)]) for p in mixture.module.parameters(recurse=False)]
    others = sorted({name for _, of in held for name, module in of if module is not mixture.module})
    if others:
        return f"weight is shared with {others[0]}"
    if any(parameter.is_cuda for parameter, _ in held):
        return "experts are packed on the cpu only"
    if trainable:
        return "experts in 3-D parameters are not converted for training"
    return "" if mixture.places else "is the model itself: wrap it, e.g. in nn.Sequential"


def _mixture(name: str, module: nn.Module) -> Mixture:
    reason = why_whole(module)
    if not reason:
        split = Experts(module)
        sites = [
            Site(f"{name}.{path}".lstrip("."), layer, [(held, leaf)])
            for path, held, leaf, layer in split.layers()
        ]
        return Mixture(name, module, [], split, sites)
    sites = [
        Site(f"{name}.{key}.{index}".lstrip("."), matrix, reason=reason)
        for key, _, matrices, _ in experts(module)
        for index, matrix in enumerate(matrices)
    ]
    return Mixture(name, module, [], None, sites)


@contextmanager
def seeing(mixtures: list[Mixture]) -> Iterator[None]:
    """While active, what experts are called with is noted, and in their sites how many tokens each gets."""
    handles = []
    try:
        for mixture in mixtures:
            if mixture.split is not None:
                hook = partial(_note, mixture)
                handles.append(mixture.module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _note(mixture: Mixture, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given: dict[str, Any] = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
    tensors = all(isinstance(given.get(name), Tensor) for name in ARGUMENTS)
    if not tensors or len(args) + len(kwargs) != 3 or given[ARGUMENTS[0]].dim() != 2:
        for site in mixture.sites:
            site.reason = site.reason or "its experts are called in another way than those of transformers"
        return
    x, chosen, shares = (given[name] for name in ARGUMENTS)
    mixture.calls.append(Call(tuple(x.shape), x.dtype, chosen.detach().clone(), shares.detach().clone()))
    tokens = {e: len(of) for e, of, _ in chosen_tokens(chosen, len(mixture.sites) // 2)}
    inner = autocast_dtype(x.device.type) or x.dtype
    for site in mixture.sites:
        path, index = site.name.rsplit(".", 1)
        if int(index) in tokens:
            dtype = x.dtype if path.endswith(EXPERTS_IN) else inner
            site.see((tokens[int(index)], site.shape[1]), dtype, x.device)


def race_mixtures(mixtures: list[Mixture], chosen: Chosen, min_speedup: float) -> list[dict[str, Any]]:
    """The experts of each block as a whole, as they came against split ones with the packed layers of
    `chosen`, which leave it where that is not `min_speedup` times as fast; a row (name, ms_before, ms_after,
    converted) for each that raced.

    A matrix that gains in a race of its own may lose here: `transformers` may run all experts in one call."""
    racing, racers = [], []
    for mixture in mixtures:
        mine = [site for site in mixture.sites if id(site) in chosen]
        if not mine:
            continue
        for site in mine:
            site.put(chosen[id(site)][1])
        calls = [_arguments(call) for call in mixture.calls]
        modules: tuple[nn.Module, nn.Module] = (mixture.module, mixture.split)
        contenders = [[partial(module, *call) for call in calls] for module in modules]
        racing.append((mixture, mine))
        racers.append(Racer(contenders, [1] * len(calls), mine[0].as_called))
    if racers:
        take_laps(racers, SECONDS, MIN_PASSES, MAX_PASSES, "measuring experts")
    rows = []
    for (mixture, mine), racer in zip(racing, racers, strict=True):
        before, after = racer.best_ms(0), racer.best_ms(1)
        wins = before >= min_speedup * after
        for site in mine:
            site.put(site.module)
            if not wins:
                site.reason = "its experts together measured slower" if after >= before else GAIN
                site.reason = site.reason.format(min_speedup)
                del chosen[id(site)]
        rows.append({"name": mixture.name, "ms_before": before, "ms_after": after, "converted": wins})
    return rows


def _arguments(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(call.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    return x.to(call.dtype), call.chosen, call.shares
