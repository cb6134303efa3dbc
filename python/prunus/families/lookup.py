"""Finding the family, the blocks and the fused projections of a model."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from prunus.families.family import Family, Stack
from prunus.families.known import FAMILIES
from prunus.families.linears import is_linear, weight_matrix

__all__ = [
    "Rows",
    "blocks",
    "find_family",
    "find_stack",
    "find_stacks",
    "fused_parts",
    "outer_lists",
    "register_family",
    "stacks",
]

#: Rows of one part of a fused weight: a range, or their numbers where the parts alternate.
Rows = range | tuple[int, ...]

# A list of modules with less than this share of the largest stack is no stack of its own.
MIN_STACK = 0.1


def register_family(family: Family) -> None:
    """Make an architecture known; it is searched before the built-in ones and replaces one of the same name.

    TypeError for anything but a `Family`. The module's docstring has a complete example.
    """
    if not isinstance(family, Family):
        raise TypeError(f"family: expected a Family, got {type(family).__name__}")
    FAMILIES[:] = [known for known in FAMILIES if known.name != family.name] + [family]


def stacks(model: nn.Module) -> list[Stack]:
    """Every list of blocks in `model` that belongs to a known family (an encoder-decoder model has two).

    >>> from torch import nn
    >>> stacks(nn.Linear(3, 5))
    []
    """
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        for family in reversed(FAMILIES):
            if name.rpartition(".")[2] == family.blocks and all(family.matches(block) for block in module):
                config, *copies = _configs_above(model, name)
                found.append(Stack(family, name, module, config, tuple(copies)))
                break
    return found


def find_stacks(model: nn.Module) -> list[Stack]:
    """`stacks`, at least one; ValueError when there is none.

    >>> from torch import nn
    >>> find_stacks(nn.Linear(3, 5))
    Traceback (most recent call last):
    ValueError: model: expected blocks of a known family (...), got Linear; describe it with ...
    """
    found = stacks(model)
    if not found:
        known = ", ".join(family.name for family in FAMILIES)
        raise ValueError(
            f"model: expected blocks of a known family ({known}), got {type(model).__name__}; "
            "describe it with prunus.families.register_family"
        )
    return found


def find_stack(model: nn.Module) -> Stack:
    """The one stack of blocks of `model`; ValueError when there is none or more than one.

    >>> from torch import nn
    >>> find_stack(nn.Linear(3, 5))
    Traceback (most recent call last):
    ValueError: model: expected blocks of a known family (...), got Linear; describe it with ...
    """
    found = find_stacks(model)
    if len(found) > 1:
        names = ", ".join(stack.name for stack in found)
        raise ValueError(
            f"model: expected one stack of blocks, got {names}; pass the sub-module that holds one"
        )
    return found[0]


def find_family(model: nn.Module) -> Family:
    """The family of `model`; ValueError when no family's names resolve in it (see `find_stack`)."""
    return find_stack(model).family


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The transformer blocks of `model`, qualified name -> module, in the order they run.

    Those of all its stacks: an encoder and a decoder, a tower for pictures and one for words. Of an unknown
    architecture, the `nn.ModuleList` with the most parameters and those beside it that hold at least a tenth
    as many, in modules of one class with several Linear layers each; without any list, {}.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    >>> list(blocks(model))
    ['0.0', '0.1']
    """
    known = {stack.name: stack.layers for stack in stacks(model)}
    lists = outer_lists(model)
    sizes = {name: _parameters(layers) for name, layers in {**lists, **known}.items()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    found = {
        name: layers
        for name, layers in lists.items()
        if name in known
        or (name == largest and not known)
        or (_one_kind(layers) and sizes[name] >= MIN_STACK * sizes[largest])
    }
    # A known stack inside of another list.
    found |= {name: layers for name, layers in known.items() if name not in found}
    return {
        f"{name}.{index}" if name else str(index): block
        for name, layers in found.items()
        for index, block in enumerate(layers)
    }


def outer_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Every `nn.ModuleList` that is in no other one and holds no stack of a known family deeper down.

    >>> list(outer_lists(nn.Sequential(nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)])]))))
    ['0']
    """
    known = {stack.name for stack in stacks(model)}
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or isinstance(module, ParametrizationList):
            continue
        inside = any(not other or name.startswith(f"{other}.") for other in found)
        above = any(other != name and (not name or other.startswith(f"{name}.")) for other in known)
        if len(module) and not inside and not above:
            found[name] = module
    return found


def _one_kind(layers: nn.ModuleList) -> bool:
    """Whether it looks like a stack of blocks: a list of heads or projections is none."""
    several = all(sum(is_linear(module) for module in block.modules()) > 1 for block in layers)
    return len({type(block) for block in layers}) == 1 and several


def fused_parts(model: nn.Module, name: str) -> dict[str, Rows]:
    """Rows of the projections fused into the weight of module `name`, in its (n, k) matrix.

    {"q": ..., "k": ..., "v": ...} or {"gate": ..., "up": ...}, each a range, or a tuple of row numbers where
    the parts alternate head by head; {} when the module is not fused or not in a known block. A budget per
    part keeps one projection from starving another.
    """
    for stack in stacks(model):
        prefix = f"{stack.name}." if stack.name else ""
        if not name.startswith(prefix):
            continue
        index, _, path = name[len(prefix) :].partition(".")
        if not index.isdecimal() or int(index) >= len(stack.layers):
            continue
        return block_parts(stack, stack.layers[int(index)], path)
    return {}


def block_parts(stack: Stack, block: nn.Module, path: str) -> dict[str, Rows]:
    """`fused_parts` of one block: `path` is relative to the block."""
    family = stack.family
    if path and path == family.qkv:
        rows = weight_matrix(block.get_submodule(path)).shape[0]
        q = weight_matrix(block.get_submodule(family.o)).shape[1]
        if family.qkv_by_head:
            return _by_head(rows, q, head_size(stack, block))
        kv = (rows - q) // 2
        return {"q": range(q), "k": range(q, q + kv), "v": range(q + kv, rows)}
    if path and path == family.gate_up:
        rows = weight_matrix(block.get_submodule(path)).shape[0]
        return {"gate": range(rows // 2), "up": range(rows // 2, rows)}
    return {}


def _by_head(rows: int, queries: int, size: int) -> dict[str, Rows]:
    """Per key head its queries, the key and the value: as many query heads as `queries` rows are for each."""
    heads = max((rows - queries) // (2 * size), 1)
    each = {"q": queries // heads, "k": size, "v": size}
    starts = range(0, rows - sum(each.values()) + 1, sum(each.values()))
    found: dict[str, Rows] = {}
    offset = 0
    for part, count in each.items():
        found[part] = tuple(row for start in starts for row in range(start + offset, start + offset + count))
        offset += count
    return found


def head_size(stack: Stack, block: nn.Module) -> int:
    """Width of one attention head, from the attention module or as hidden size / heads of the config."""
    attention = block.get_submodule(stack.family.attention)
    for attribute in stack.family.head_size:
        if isinstance(getattr(attention, attribute, None), int):
            return int(getattr(attention, attribute))
    hidden, heads = stack.number("hidden"), stack.number("heads")
    if not hidden or not heads:
        names = ", ".join(stack.family.head_size)
        raise ValueError(
            f"{stack.name}: expected the head size as {names} of the attention module or in the config"
        )
    return int(hidden) // int(heads)


def _configs_above(model: nn.Module, name: str) -> list[Any]:
    """The config of the innermost module above `name` that has one (or None), and those further up of its
    class that are other objects."""
    module, found = model, [getattr(model, "config", None)]
    for part in name.split(".") if name else ():
        module = getattr(module, part)
        found.append(getattr(module, "config", None))
    configs = {id(config): config for config in reversed(found) if config is not None}
    innermost = next(iter(configs.values()), None)
    return [innermost, *(c for c in list(configs.values())[1:] if type(c) is type(innermost))]


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if not nn.parameter.is_lazy(p))
