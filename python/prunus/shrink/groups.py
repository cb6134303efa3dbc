"""The removable groups of a block: a neuron or a key/value head with all the weights that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunus.families import Stack, weight_matrix
from prunus.families.family import resolve
from prunus.families.lookup import block_parts, head_size

__all__ = ["KINDS", "VALUE_PARTS", "BlockGroups", "Kind", "Slot", "sites"]

Kind = Literal["neurons", "heads"]
KINDS: tuple[Kind, ...] = ("neurons", "heads")

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

    @property
    def block(self) -> nn.Module:
        """The transformer block that holds it."""
        return self.stack.layers[self.index]

    @property
    def name(self) -> str:
        """Qualified name of the output projection."""
        path = self.stack.family.down if self.kind == "neurons" else self.stack.family.o
        return ".".join(part for part in (self.stack.name, str(self.index), path) if part)

    def columns(self, groups: Tensor) -> Tensor:
        """Column indices of these groups in the output projection, in order."""
        return (groups[:, None] * self.per + torch.arange(self.per, device="cpu")).flatten()

    def slot(self, part: str) -> Slot | None:
        """The slot of "up", "gate", "q", "k" or "v"."""
        return next((slot for slot in self.slots if slot.part == part), None)

    def activation(self) -> Any:
        """What stands between the up projection and `out`."""
        return resolve(self.block, self.stack.family.act)


def sites(stack: Stack, kind: Kind) -> list[BlockGroups]:
    """One site per block. TypeError or ValueError when a block's weights do not fit its family."""
    repeated = len({id(block) for block in stack.layers}) < len(stack.layers)
    if repeated:
        raise ValueError(f"{stack.name}: expected blocks of their own, got one block used several times")
    build = _neurons if kind == "neurons" else _heads
    found = [build(stack, index) for index in range(len(stack.layers))]
    for site in found:
        _check_unknown(site)
    return found


def _slot(stack: Stack, block: nn.Module, part: str, groups: int) -> Slot:
    """The rows of `part`, from its own projection or from the fused one."""
    family = stack.family
    path = getattr(family, part) or (family.qkv if part in "qkv" else family.gate_up)
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
    slots = tuple(_slot(stack, block, part, width) for part in parts)
    if any(slot.per != 1 for slot in slots):
        raise ValueError(f"{stack.name}.{index}: expected as many rows in up as columns in down ({width})")
    return BlockGroups(stack, index, "neurons", down, slots, width, 1)


def _heads(stack: Stack, index: int) -> BlockGroups:
    family, block = stack.family, stack.layers[index]
    if family.fixed_heads:
        raise ValueError(f"{stack.name}: heads of {family.name} models stay: {family.fixed_heads}")
    out = block.get_submodule(family.o)
    size = head_size(stack, block)
    if family.qkv:
        kv_rows = len(block_parts(stack, block, family.qkv)["k"])
    else:
        kv_rows = weight_matrix(block.get_submodule(family.k)).shape[0]
    columns = weight_matrix(out).shape[1]
    if kv_rows % size or kv_rows == 0:
        raise ValueError(f"{stack.name}.{index}: expected keys in heads of {size}, got {kv_rows} rows")
    count = kv_rows // size
    slots = tuple(_slot(stack, block, part, count) for part in "qkv")
    per = slots[0].per
    if per * count != columns or per % size or slots[2].per != size:
        raise ValueError(f"{stack.name}.{index}: expected q, k, v and o of {count} groups of heads of {size}")
    return BlockGroups(stack, index, "heads", out, slots, count, per)


def _check_unknown(site: BlockGroups) -> None:
    """Refuses parameters to be cut too that the family does not name, such as a norm over all heads."""
    family, block = site.stack.family, site.block
    known = {id(p) for path in family.weights() for p in block.get_submodule(path).parameters()}
    hidden = weight_matrix(site.out).shape[0]
    width = site.count * site.per
    scope = block.get_submodule(family.attention) if site.kind == "heads" else block
    for name, parameter in scope.named_parameters():
        if (
            id(parameter) not in known
            and width in parameter.shape
            and (width != hidden or site.kind == "heads")
        ):
            raise ValueError(
                f"{site.name}: expected no other weights of width {width}, got {name}, which the family "
                f"{family.name!r} does not describe"
            )
