"""Models pruned by torch itself: their masks become zeros in an ordinary weight, and can be put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils import prune as torch_prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from prunus._tools.interrupts import OneInterrupt

__all__ = ["fold", "folded"]

Undo = Callable[[], None]

# Kinds of hooks that compute a weight before every call, and what takes them off.
NORMS: dict[type, Callable[[nn.Module], object]] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
}


def fold(module: Any) -> tuple[str, Undo] | None:
    """Make `module.weight` an ordinary parameter again with the value it has now.

    Understands `torch.nn.utils.prune` (weight_orig, weight_mask), the weight and spectral norm of
    `torch.nn.utils`, and parametrizations of the weight, whatever they have as originals
    (`torch.ao.pruning`'s FakeSparsity and the norms of `torch.nn.utils.parametrizations` among them). Returns
    a note for the report and a function that puts everything back; None where there is nothing to fold.
    """
    if "weight_orig" in module._parameters and "weight_mask" in module._buffers:
        undo = _snapshot(module)
        torch_prune.remove(module, "weight")  # type: ignore[no-untyped-call]
        return "folded torch.nn.utils.prune mask", undo
    for hook in module._forward_pre_hooks.values():
        if type(hook) in NORMS and hook.name == "weight":
            undo = _snapshot(module)
            NORMS[type(hook)](module)
            return f"folded {type(hook).__name__}", undo
    if parametrize.is_parametrized(module, "weight"):
        rules = module.parametrizations.weight
        undo = _snapshot(module)
        names = ", ".join(type(rule).__name__.lstrip("_") for rule in rules)
        kind, attribute = type(module), type(module).__dict__["weight"]
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        if type(module) is not kind:  # torch took the attribute off a class that deep copies share
            kind.weight = attribute
        if module._parameters.get("weight") is None:  # of several frozen originals torch makes a buffer
            module.weight = nn.Parameter(module._buffers.pop("weight"), requires_grad=False)
        return f"folded parametrization {names}", undo
    return None


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """While active, weights that carry a mask of torch (not weight norm and the like) are ordinary ones.

    Afterwards the masks are back on every module, also on those that left the model meanwhile.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> _ = torch_prune.l1_unstructured(model[0], "weight", 0.5)
    >>> with folded(model):
    ...     print(sorted(model.state_dict()))
    ['0.bias', '0.weight']
    """
    undos: list[Undo] = []
    try:
        for module in list(model.modules()):
            made = fold(module) if _is_masked(module) else None
            if made is not None:
                undos.append(made[1])
        yield
    finally:
        with OneInterrupt() as interrupt:
            interrupt.hold()
            while undos:
                undos.pop()()


def _is_masked(module: nn.Module) -> bool:
    """Whether the weight is masked: by torch.nn.utils.prune, torch.ao.pruning, or a rule with a mask."""
    if "weight_orig" in module._parameters and "weight_mask" in module._buffers:
        return True
    if not parametrize.is_parametrized(module, "weight"):
        return False
    rules: Any = module.parametrizations
    return all(isinstance(getattr(rule, "mask", None), Tensor) for rule in rules.weight)


def _snapshot(module: Any) -> Undo:
    """Remember class, tables and the originals' memory: folding replaces them, it writes into none."""
    kind = type(module)
    holder = module._modules.get("parametrizations")
    rules = list(holder._modules.values()) if holder is not None else []
    originals = [p for part in (module, *rules) for p in part._parameters.values() if p is not None]
    memory = [p.data for p in originals]
    tables: list[dict[str, Any]] = [
        module._parameters,
        module._buffers,
        module._modules,
        module._forward_pre_hooks,
        module._state_dict_hooks,
        module._load_state_dict_pre_hooks,
    ]
    tables += [holder._modules] if holder is not None else []
    before = [dict(table) for table in tables]
    plain = {key: value for key, value in module.__dict__.items() if key == "weight"}

    def undo() -> None:
        module.__class__ = kind
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
        module.__dict__.update(plain)
        for original, data in zip(originals, memory, strict=True):
            original.data = data

    return undo
