"""Which Linear layers a model has, what they see, and why some must stay as they are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.running import hooked
from prunus.families import (
    READERS,
    FilterFn,
    in_adapter,
    is_linear,
    is_plain_linear,
    memory,
    owners,
    weight_matrix,
)
from prunus.nn import SparseLinear, TwoFourLinear
from prunus.ops.registered import autocast_dtype

# 8-bit columns cost 5 bytes per kept fp32 weight against 4: below this no regime can win.
MIN_SPARSITY = 0.2

PACKED = (torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda")
CPU = torch.device("cpu")

Holders = dict[int, list[tuple[str, nn.Module]]]


@dataclass
class Site:
    """One Linear (or Conv1D) module and every place where the model holds it."""

    name: str
    module: nn.Module
    places: list[tuple[nn.Module, str]] = field(default_factory=list)  # (parent, attribute)
    reason: str = ""  # why it stays dense; "" = may be converted
    inputs: Counter[tuple[int, ...]] = field(default_factory=Counter)  # shape of x -> calls
    sparsity: float | None = None
    shape: tuple[int, ...] = ()

    plain: bool = False  # forward(x) is x . w^T + b on `device` in a dtype that is packed: can be timed
    device: torch.device = CPU  # of the weight
    dtype: torch.dtype = torch.float32  # of x
    autocast: torch.dtype | None = None  # of torch.autocast around the call
    sparse: bool = False  # is packed already
    tied: bool = False  # to an embedding, beside which a packed copy may stand
    errors: dict[str, float] = field(default_factory=dict)  # relative (L2), of each candidate's answers

    @property
    def tokens(self) -> list[int]:
        """m of each kind of call, without repetition."""
        return list(dict.fromkeys(math.prod(shape[:-1]) for shape in self.inputs))

    def as_called(self) -> AbstractContextManager[Any]:
        """The autocast that the model calls the layer under."""
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def see(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        """Note a call with such an x, and why what sees it cannot be packed."""
        autocast = autocast_dtype(device.type)
        if self.inputs and (dtype, autocast) != (self.dtype, self.autocast):
            self.plain = False
            self.reason = self.reason or "is called with several dtypes"
        self.inputs[shape] += 1
        self.dtype, self.autocast = dtype, autocast
        if dtype not in PACKED or device != self.device:
            self.plain = False
            only = _only(self.device.type)
            self.reason = self.reason or f"saw {_word(dtype)} inputs on {device.type}: {only}"

    def settle(self, fixed: str, filter_fn: FilterFn | None, at_least: float) -> None:
        """The reason why it stays dense, if there is one: `fixed`, the filter, or too few zeros."""
        self.reason = self.reason or fixed
        if not self.reason and filter_fn is not None and not filter_fn(self.module, self.name):
            self.reason = "left out by filter_fn"
        if not self.reason and self.sparsity is not None and self.sparsity < at_least:
            self.reason = f"{self.sparsity:.0%} zeros: too few"

    def put(self, module: nn.Module) -> None:
        """`module` at every place of the site."""
        for parent, leaf in self.places:
            parent._modules[leaf] = module


def survey(
    model: nn.Module, filter_fn: FilterFn | None, at_least: float = MIN_SPARSITY, copies: bool = False
) -> list[Site]:
    """Every Linear-like module of the model, with a reason where it cannot be converted.

    at_least: zeros. copies: a weight that an embedding shares may be packed beside it.
    """
    sites: dict[int, Site] = {}
    readers = [name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, READERS)]
    for name, module in model.named_modules(remove_duplicate=False):
        if not _linear_like(module):
            continue
        site = sites.setdefault(id(module), Site(name, module))
        parent, _, leaf = name.rpartition(".")
        if name:
            site.places.append((model.get_submodule(parent), leaf))
        else:
            site.reason = "is the model itself: wrap it, e.g. in nn.Sequential"
        inside = [r for r in readers if not r or name.startswith(r + ".")]
        if inside:
            site.reason = f"inside {type(model.get_submodule(inside[0])).__name__}, which reads its weight"
    holders = owners(model)
    for site in sites.values():
        describe(site)
        fixed = why_fixed(site) or _why_shared(site, holders, model if copies else None)
        site.settle(fixed, filter_fn, at_least)
    return list(sites.values())


@contextmanager
def recording(sites: list[Site]) -> Iterator[None]:
    """While active, calls of the sites' modules note the shapes (and odd dtypes) of their inputs."""
    handles = []
    try:
        for site in sites:
            hook = _recorder(site)
            handles.append(site.module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _recorder(site: Site) -> Callable[..., None]:
    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(x, Tensor):
            site.see(tuple(x.shape), x.dtype, x.device)

    return note


def _only(device: str) -> str:
    return f"only float32, bfloat16 and float16 on {device if device in DEVICES else 'cpu'} are packed"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _linear_like(module: nn.Module) -> bool:
    """Linear, Conv1D, and what others derive from them or name like them (quantised Linears)."""
    if is_linear(module):
        return True
    named_so = "Linear" in type(module).__name__
    return named_so and hasattr(module, "in_features") and hasattr(module, "out_features")


def describe(site: Site) -> None:
    """Shape, device and sparsity of its weight; of what is packed already the reason too."""
    if isinstance(site.module, TwoFourLinear):
        weight = site.module.dense()
        site.shape, site.sparse, site.reason = tuple(weight.shape), True, "already sparse"
        site.sparsity = 1.0 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)
        return
    if isinstance(site.module, SparseLinear):
        packed = site.module.packed_weight
        site.shape, site.sparsity, site.sparse = packed.shape, packed.sparsity, True
        site.reason = "already sparse"
        return
    try:
        weight = weight_matrix(site.module)
    except TypeError:
        n, k = getattr(site.module, "out_features", None), getattr(site.module, "in_features", None)
        site.shape = (n, k) if isinstance(n, int) and isinstance(k, int) else ()
        return
    site.shape, site.device = tuple(weight.shape), weight.device
    if weight.device.type != "meta" and weight.numel():
        site.sparsity = 1.0 - int(torch.count_nonzero(weight)) / weight.numel()


def why_fixed(site: Site) -> str:
    """Why a module by itself cannot be converted; "": it can be, and is `plain`."""
    module = site.module
    if in_adapter(site.name):
        return "part of a low-rank adapter, which stays trainable"
    if "parametrizations" in module._modules:
        return "parametrised"
    if not is_plain_linear(module):
        return f"is a {type(module).__name__}, not a plain Linear"
    try:
        weight = weight_matrix(module)
    except TypeError:
        return "has no ordinary weight"
    if hooked(module):
        return "has hooks that a conversion would lose"
    device = weight.device.type
    if device not in DEVICES or weight.dtype not in PACKED or weight.layout != torch.strided:
        return f"weight is {_word(weight.dtype)} on {device}: {_only(device)}"
    if weight.numel() == 0:
        return "weight is empty"
    site.plain = True
    return ""


def _why_shared(site: Site, holders: Holders, copies_of: nn.Module | None) -> str:
    others = {name for name, _ in holders[memory(weight_matrix(site.module))]} - {site.name}
    if copies_of is not None:
        embeddings = {name for name in others if isinstance(copies_of.get_submodule(name), nn.Embedding)}
        site.tied, others = bool(embeddings), others - embeddings
    if others:
        return f"weight is shared with {min(others)}"
    return ""
