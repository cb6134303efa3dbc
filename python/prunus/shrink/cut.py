"""Cutting groups and blocks out of a model, and keeping its numbers (head counts, config) true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.families import Stack, weight_matrix
from prunus.families.experts import EXPERTS_IN, EXPERTS_OUT
from prunus.shrink.edits import Edits
from prunus.shrink.groups import BlockGroups, kinds, sites

__all__ = [
    "check_untied",
    "cut_experts",
    "cut_groups",
    "cut_layers",
    "kept_layers",
    "note_kept",
    "refresh_numbers",
    "set_group_numbers",
]

# On the ModuleList: (number of blocks it once had, indices of those still there).
_KEPT = "prunus_kept"


def cut_groups(
    edits: Edits, site: BlockGroups, keep: Tensor, means: Tensor | None = None, weight: Tensor | None = None
) -> str:
    """Plan to keep these groups of a site, with the values of `weight` (n, kept columns) if given.

    `means` (columns,) of the activations go into the next bias, so that its mean output stays. Returns what
    happens to the bias: "folded", "added" (there was none) or "" (nothing to fold).
    """
    columns, note = site.columns(keep), ""
    if means is not None:
        lost = weight_matrix(site.out).to("cpu", torch.float64, copy=True)
        lost[:, columns] -= lost[:, columns] if weight is None else weight
        delta = lost @ means
        if bool(delta.any()):
            note = "added" if edits.get(site.out, "bias") is None else "folded"
            edits.add_to_bias(site.out, delta)
    modules: dict[int, tuple[nn.Module, list[Tensor]]] = {}
    for slot in site.slots:  # a fused projection is cut once, with the rows of all its parts
        modules.setdefault(id(slot.module), (slot.module, []))[1].append(slot.rows(keep))
    for module, rows in modules.values():
        stays = torch.zeros(weight_matrix(module).shape[0], dtype=torch.bool, device="cpu")
        stays[torch.cat(rows)] = True  # in the order of the weight: parts may alternate head by head
        edits.keep_rows(module, stays.nonzero().flatten())
    for table in site.tables:
        edits.keep_dimensions(table, keep)
    edits.keep_columns(site.out, columns, weight)
    return note


def cut_experts(edits: Edits, found: Sequence[BlockGroups], keeps: Sequence[Tensor]) -> None:
    """Plan to keep these neurons of the experts among the sites, as many in all of a block."""
    blocks: dict[int, list[tuple[BlockGroups, Tensor]]] = {}
    for site, keep in zip(found, keeps, strict=True):
        if site.expert is not None:
            blocks.setdefault(id(site.block), []).append((site, keep))
    for own in blocks.values():
        site, keep = own[0]
        if keep.numel() == site.count:
            continue
        module: Any = site.block.get_submodule(site.stack.family.experts)
        matrices: dict[str, list[Tensor]] = {EXPERTS_IN: [], EXPERTS_OUT: []}
        for site, keep in own:
            inner = site.slots[0].module
            rows = torch.cat([slot.rows(keep) for slot in site.slots]).sort().values
            device = weight_matrix(inner).device
            matrices[EXPERTS_IN].append(weight_matrix(inner).index_select(0, rows.to(device)))
            matrices[EXPERTS_OUT].append(weight_matrix(site.out).index_select(1, keep.to(device)))
        for name, kept in matrices.items():
            whole = torch.stack([m.t() if module.is_transposed else m for m in kept])
            edits.set(module, name, nn.Parameter(whole, requires_grad=getattr(module, name).requires_grad))
        if hasattr(module, "intermediate_dim"):
            edits.set(module, "intermediate_dim", keep.numel())


def set_group_numbers(edits: Edits, found: Sequence[BlockGroups], counts: Sequence[int]) -> str:
    """Plan the head counts of the attention modules and the configs; `counts` groups stay at each site.

    `found` are the sites of all stacks, which may share a config. Returns the config's name of a number that
    cannot describe the model any more ("" if all is well): widths that differ from block to block, or head
    counts where the config has no head size of its own.
    """
    numbers = _Numbers()
    for site, count in zip(found, counts, strict=True):
        if site.kind == "neurons":
            numbers.add(site.stack, "width", count)
            continue
        size = site.slots[2].per
        own = {"heads": count * site.per // size, "kv_heads": count, "width": count * site.per}
        for attribute, word in site.stack.family.attention_numbers.items():
            if hasattr(site.attention, attribute):
                edits.set(site.attention, attribute, own[word])
        if "head_size" in site.stack.family.config:
            for word in ("heads", "kv_heads"):
                numbers.add(site.stack, word, own[word])
            numbers.add(site.stack, "head_size", size)
        elif site.stack.number("heads") not in (None, own["heads"]):
            numbers.unsaid.append(site.stack.config_name("heads"))
    return numbers.plan(edits)


class _Numbers:
    """What the configs shall say, site by site; one that has two values for a number is left as it is."""

    def __init__(self) -> None:
        self.unsaid: list[str] = []
        self._wanted: dict[int, tuple[Any, dict[str, set[int]]]] = {}

    def add(self, stack: Stack, word: str, value: int) -> None:
        """Of one site: `value` for the number that prunus calls `word`."""
        name, names = stack.config_name(word), stack.family.config.get(word, ())
        if not name and word == "head_size":
            name = names[0]
        if not name and word == "width" and stack.configs:
            self.unsaid.append(names[0] if names else word)
        for config in stack.configs if name else ():
            wanted = self._wanted.setdefault(id(config), (config, {}))[1]
            wanted.setdefault(name, set()).add(value)

    def plan(self, edits: Edits) -> str:
        """The name of the first number that no config can say."""
        for config, wanted in self._wanted.values():
            uneven = [name for name, values in wanted.items() if len(values) > 1]
            self.unsaid += uneven
            for name, values in wanted.items() if not uneven else ():
                edits.set(config, name, next(iter(values)))
        return self.unsaid[0] if self.unsaid else ""


def cut_layers(edits: Edits, stack: Stack, keep: Sequence[int]) -> None:
    """Plan to keep these blocks; renumbers the key/value cache slots and the config's per-layer lists."""
    layers = [stack.layers[index] for index in keep]
    edits.set(stack.layers, "_modules", {str(position): layer for position, layer in enumerate(layers)})
    for position, (index, layer) in enumerate(zip(keep, layers, strict=True)):
        for module in layer.modules():
            if getattr(module, "layer_idx", None) == index:
                edits.set(module, "layer_idx", position)
    total, kept = kept_layers(stack)
    edits.set(stack.layers, _KEPT, (total, tuple(kept[index] for index in keep)))
    for config in stack.configs:
        if name := stack.config_name("layers"):
            edits.set(config, name, len(keep))
        for attribute in stack.family.config.get("per_layer", ()):
            entries = getattr(config, attribute, None)
            if isinstance(entries, (list, tuple)) and len(entries) == len(stack.layers):
                edits.set(config, attribute, type(entries)(entries[index] for index in keep))
    for name in stack.family.config.get("own_layers", ()) if stack.copies else ():
        edits.set(stack.config, name, len(keep))


def refresh_numbers(edits: Edits, keeps: Sequence[tuple[Stack, Sequence[int]]]) -> None:
    """Plan the config numbers of the blocks that stay: widths that differed may be equal among them."""
    for together in (("neurons",), ("heads", "cross")):
        try:
            found = [
                site
                for stack, keep in keeps
                for kind in kinds(stack.family)
                if kind in together
                for site in sites(stack, kind)
                if site.index in keep
            ]
        except (TypeError, ValueError):
            continue  # packed or repeated blocks: nobody can cut groups out of them, the numbers stay
        set_group_numbers(edits, found, [site.count for site in found])


def kept_layers(stack: Stack) -> tuple[int, tuple[int, ...]]:
    """(number of blocks before the first cut, original indices of the blocks still there)."""
    count = len(stack.layers)
    total, kept = getattr(stack.layers, _KEPT, (count, tuple(range(count))))
    # Somebody else changed the list: what is there now is the new beginning.
    return (total, kept) if len(kept) == count else (count, tuple(range(count)))


def note_kept(edits: Edits, stack: Stack, total: int, kept: Sequence[int]) -> None:
    """Plan to remember that the blocks are `kept` out of `total`, without cutting any."""
    edits.set(stack.layers, _KEPT, (total, tuple(kept)))


def check_untied(model: nn.Module, found: Sequence[BlockGroups]) -> None:
    """ValueError when a weight that would be cut is also used somewhere else."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for site in found:
        for module in site.modules:
            for name, parameter in module.named_parameters(recurse=False):
                if uses[id(parameter)] > 1:
                    raise ValueError(f"{site.name}: expected weights of its own, got a shared {name}")
