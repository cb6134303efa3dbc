"""The removable groups of a block: a neuron or a key/value head with all the weights that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunus.families import Family, Stack, weight_matrix
from prunus.families.experts import EXPERTS_IN, EXPERTS_OUT, experts
from prunus.families.family import resolve
from prunus.families.lookup import block_parts, head_size

__all__ = [
    "KINDS",
    "VALUE_PARTS",
    "BlockGroups",
    "Kind",
    "Slot",
    "kinds",
    "out_path",
    "sites",
]

#: "cross" are the heads of the attention that reads an encoder.
Kind = Literal["neurons", "heads", "cross"]
KINDS: tuple[Kind, ...] = ("neurons", "heads", "cross")


#: Slots that a group's output is proportional to, biases aside; q and k only steer the attention.
VALUE_PARTS = ("up", "gate", "v")


@dataclass(frozen=True)
class Slot:
    """Rows of a projection that feed the groups: group g owns `per` rows from `start + g * stride` on."""

    module: nn.Module
    part: str
    start: int
    per: int
    stride: int

    def rows(self, groups: Tensor) -> Tensor:
        """Row indices of these groups, in order."""
        return (self.start + groups[:, None] * self.stride + torch.arange(self.per, device="cpu")).flatten()


@dataclass(frozen=True)
class BlockGroups:
    """All groups of one kind in one block: `count` groups, each `per` columns of the projection `out`."""

    stack: Stack
    index: int
    kind: Kind
    out: nn.Module
    slots: tuple[Slot, ...]
    count: int
    per: int
    #: With a column per group.
    tables: tuple[nn.Module, ...] = ()
    #: Which expert of a mixture it is; `out` and the slots are then views of its matrices.
    expert: int | None = None

    @property
    def modules(self) -> list[nn.Module]:
        """What is cut with the groups, each once."""
        slots = {id(slot.module): slot.module for slot in self.slots}
        return [self.out, *slots.values(), *self.tables]

    @property
    def block(self) -> nn.Module:
        """The transformer block that holds it."""
        return self.stack.layers[self.index]

    @property
    def name(self) -> str:
        """Qualified name of the output projection."""
        path = out_path(self.stack.family, self.kind)
        expert = "" if self.expert is None else str(self.expert)
        return ".".join(part for part in (self.stack.name, str(self.index), path, expert) if part)

    @property
    def attention(self) -> nn.Module:
        """The module with the head counts."""
        family = self.stack.family
        return self.block.get_submodule(family.cross if self.kind == "cross" else family.attention)

    def columns(self, groups: Tensor) -> Tensor:
        """Column indices of these groups in the output projection, in order."""
        return (groups[:, None] * self.per + torch.arange(self.per, device="cpu")).flatten()

    def slot(self, part: str) -> Slot | None:
        """The first slot of "up", "gate", "q", "k", "v" or "position"."""
        return next((slot for slot in self.slots if slot.part == part), None)

    def activation(self) -> Any:
        """What stands between the up projection and `out`."""
        return resolve(self.block, self.stack.family.act)


def kinds(family: Family) -> tuple[Kind, ...]:
    """Those of `KINDS` that the family's blocks have."""
    return tuple(kind for kind in KINDS if out_path(family, kind))


def out_path(family: Family, kind: Kind) -> str:
    """Where the groups' output projection is in a block; "" where a block has no such groups."""
    if kind == "neurons":
        return f"{family.experts}.{EXPERTS_OUT}" if family.experts else family.down
    if kind == "heads":
        return family.o
    return family.crossed(family.o) if family.cross else ""


def sites(stack: Stack, kind: Kind) -> list[BlockGroups]:
    """One site per block, or per expert. TypeError or ValueError when weights do not fit the family."""
    repeated = len({id(block) for block in stack.layers}) < len(stack.layers)
    if repeated:
        raise ValueError(f"{stack.name}: expected blocks of their own, got one block used several times")
    found: list[BlockGroups] = []
    for index in range(len(stack.layers)):
        if kind == "neurons" and stack.family.experts:
            found += _experts(stack, index)
        else:
            found.append(_neurons(stack, index) if kind == "neurons" else _heads(stack, index, kind))
    for site in found:
        _check_unknown(site)
    return found


def _slot(stack: Stack, block: nn.Module, part: str, groups: int, path: str) -> Slot:
    """The rows of `part` in the projection at `path`, its own or a fused one."""
    module = block.get_submodule(path)
    rows = block_parts(stack, block, path).get(part, range(weight_matrix(module).shape[0]))
    if groups == 0 or len(rows) % groups:
        raise ValueError(f"{stack.name} {path}: expected rows in {groups} equal groups, got {len(rows)} rows")
    per = len(rows) // groups
    return Slot(module, part, rows[0], per, rows[per] - rows[0] if groups > 1 else per)


def _neurons(stack: Stack, index: int) -> BlockGroups:
    family, block = stack.family, stack.layers[index]
    down = block.get_submodule(family.down)
    width = weight_matrix(down).shape[1]
    parts = ("gate", "up") if family.gate or family.gate_up else ("up",)
    slots = tuple(_slot(stack, block, part, width, getattr(family, part) or family.gate_up) for part in parts)
    if any(slot.per != 1 for slot in slots):
        raise ValueError(f"{stack.name}.{index}: expected as many rows in up as columns in down ({width})")
    return BlockGroups(stack, index, "neurons", down, slots, width, 1)


def _experts(stack: Stack, index: int) -> list[BlockGroups]:
    path = stack.family.experts
    module = stack.layers[index].get_submodule(path)
    held = {name: (matrices, parts) for name, _, matrices, parts in experts(module)}
    if held.keys() != module._parameters.keys() or held.keys() != {EXPERTS_IN, EXPERTS_OUT}:
        got = ", ".join(module._parameters) or "none"
        raise ValueError(
            f"{stack.name}.{index}.{path}: expected the parameters {EXPERTS_IN} and {EXPERTS_OUT}, got {got}"
        )
    (ins, parts), (outs, _) = held[EXPERTS_IN], held[EXPERTS_OUT]
    width = outs[0].in_features
    if parts.keys() != {"gate", "up"} or len(parts["up"]) != width:
        raise ValueError(f"{stack.name}.{index}.{path}: expected a gate and an up row for each of {width}")
    found = []
    for expert, (one, out) in enumerate(zip(ins, outs, strict=True)):
        slots = tuple(
            Slot(one, part, rows[0], 1, rows[1] - rows[0] if width > 1 else 1) for part, rows in parts.items()
        )
        found.append(BlockGroups(stack, index, "neurons", out, slots, width, 1, expert=expert))
    return found


def _heads(stack: Stack, index: int, kind: Kind) -> BlockGroups:
    family, block = stack.family, stack.layers[index]
    always = not family.fixed_heads_when
    if family.fixed_heads and (
        always or any(getattr(stack.config, f, False) for f in family.fixed_heads_when)
    ):
        raise ValueError(f"{stack.name}: heads of {family.name} models stay: {family.fixed_heads}")
    paths = {part: getattr(family, part) or family.qkv for part in "qkv"}
    if kind == "cross":
        paths = {part: family.crossed(path) for part, path in paths.items()}
    out = block.get_submodule(out_path(family, kind))
    size = head_size(stack, block)
    if family.qkv:
        kv_rows = len(block_parts(stack, block, family.qkv)["k"])
    else:
        kv_rows = weight_matrix(block.get_submodule(paths["k"])).shape[0]
    columns = weight_matrix(out).shape[1]
    if kv_rows % size or kv_rows == 0:
        raise ValueError(f"{stack.name}.{index}: expected keys in heads of {size}, got {kv_rows} rows")
    count = kv_rows // size
    slots = [_slot(stack, block, part, count, path) for part, path in paths.items()]
    slots += [_slot(stack, block, "position", count, path) for path in _present(block, family.positions)]
    per = slots[0].per
    uneven = any(slot.per != per for slot in slots[3:])
    if per * count != columns or per % size or slots[2].per != size or uneven:
        raise ValueError(f"{stack.name}.{index}: expected q, k, v and o of {count} groups of heads of {size}")
    own = [family.head_bias] if family.head_bias and kind == "heads" else []
    tables = tuple(block.get_submodule(path) for path in _present(block, own))
    return BlockGroups(stack, index, kind, out, tuple(slots), count, per, tables)


def _present(block: nn.Module, paths: Sequence[str]) -> list[str]:
    """Those of the paths that the block has a module at."""
    names = {name for name, _ in block.named_modules()}
    return [path for path in paths if path and path in names]


def _check_unknown(site: BlockGroups) -> None:
    """Refuses parameters to be cut too that the family does not name, such as a norm over all heads."""
    family, block = site.stack.family, site.block
    # The norms that the family names are over the stream.
    paths = (*family.weights(), *_present(block, (*family.positions, *family.norms, family.experts)))
    known = [block.get_submodule(path) for path in paths] + list(site.tables)
    ours = {id(parameter) for module in known for parameter in module.parameters()}
    hidden = weight_matrix(site.out).shape[0]
    width = site.count * site.per
    scope = block if site.kind == "neurons" else site.attention
    others = [(name, p, width) for name, p in scope.named_parameters()]
    if site.kind != "neurons":  # one number per head, as of attention sinks
        heads = width // site.slots[2].per
        others += [(name, p, heads) for name, p in scope.named_parameters(recurse=False)]
    for name, parameter, size in others:
        known_size = size == hidden and site.kind == "neurons"
        if id(parameter) not in ours and size in parameter.shape and not known_size:
            raise ValueError(
                f"{site.name}: expected no other weights of width {size}, got {name}, which the family "
                f"{family.name!r} does not describe"
            )
