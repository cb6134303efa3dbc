"""The shape of a shrunk model as plain data, so that a fresh dense model can be given the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import nn

from prunus._core import FormatError
from prunus.families import Stack, stacks, weight_matrix
from prunus.families.experts import EXPERTS_OUT, experts
from prunus.nn import Experts
from prunus.shrink.cut import (
    check_untied,
    cut_experts,
    cut_groups,
    cut_layers,
    kept_layers,
    note_kept,
    set_group_numbers,
)
from prunus.shrink.edits import Edits
from prunus.shrink.groups import BlockGroups, Kind, kinds, out_path, sites

__all__ = ["apply_geometry_", "geometry"]


def geometry(model: nn.Module) -> dict[str, Any]:
    """Blocks, widths and biases of every stack of a known family, as JSON-ready data; {} without any.

    Per stack: its name and family, `total` blocks once and which of them are `kept`, and per kept block the
    inputs of the output projections ("neurons": down, "heads": o, "cross": o of a cross-attention) and
    whether those have a bias.

    >>> geometry(nn.Linear(2, 2))
    {}
    """
    found = [_describe(stack) for stack in stacks(model)]
    return {"version": 1, "stacks": found} if found else {}


def apply_geometry_(model: nn.Module, shape: Mapping[str, Any]) -> Callable[[], None]:
    """Give a dense model the shape that `geometry` described; the weights that stay are arbitrary.

    For loading: the saved weights are written over them afterwards. A model that has the shape already is
    left as it is; the blocks may be all `total` or just the kept ones. Raises FormatError for data that does
    not describe this model; the model is then unchanged. Returns a function that takes everything back.

    >>> undo = apply_geometry_(nn.Linear(2, 2), {})
    """
    edits = Edits()
    if shape == {}:
        return edits.apply()
    entries = shape.get("stacks") if isinstance(shape, Mapping) and shape.get("version") == 1 else None
    if not isinstance(entries, list):
        raise FormatError("geometry: expected version 1 with a list of stacks")
    present = {stack.name: stack for stack in stacks(model)}
    planned: list[tuple[BlockGroups, int]] = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        stack = present.get(name) if isinstance(name, str) else None
        if stack is None:
            raise FormatError(
                f"geometry: expected a stack of blocks at {', '.join(present) or '-'}, got {name!r}"
            )
        planned += _plan(edits, model, stack, entry)
    for together in (("neurons",), ("heads", "cross")):
        # Of all stacks at once: they may share a config.
        pairs = [(site, count) for site, count in planned if site.kind in together]
        if any(count < site.count for site, count in pairs):
            set_group_numbers(edits, [site for site, _ in pairs], [count for _, count in pairs])
    return edits.apply()


def _describe(stack: Stack) -> dict[str, Any]:
    total, kept = kept_layers(stack)
    blocks = []
    for block in stack.layers:
        entry: dict[str, Any] = {}
        for kind in kinds(stack.family):
            out = _out(stack, block, kind)
            if out is None:
                continue
            entry[kind] = _inputs(out)
            entry[f"{kind}_bias"] = getattr(out, "bias", None) is not None
        blocks.append(entry)
    return {
        "name": stack.name,
        "family": stack.family.name,
        "total": total,
        "kept": list(kept),
        "blocks": blocks,
    }


def _plan(
    edits: Edits, model: nn.Module, stack: Stack, entry: Mapping[str, Any]
) -> list[tuple[BlockGroups, int]]:
    """Plan the cuts of one stack; its sites, and how many groups each has afterwards."""
    total, kept, blocks = _read(stack, entry)
    count = len(stack.layers)
    if count == total:
        keep = kept
    elif count == len(kept):
        keep = list(range(count))
    else:
        raise FormatError(f"geometry: expected {total} or {len(kept)} blocks in {stack.name}, got {count}")
    planned: list[tuple[BlockGroups, int]] = []
    for kind in _counted(stack, blocks):
        outs = [_out(stack, stack.layers[index], kind) for index in keep]
        same = [_inputs(out) for out in outs if out is not None] == [block[kind] for block in blocks]
        try:
            everywhere = sites(stack, kind)
        except (TypeError, ValueError):
            if not same:
                raise
            everywhere = []  # nobody can cut them, and nobody needs to
        described = dict(zip(keep, blocks, strict=True))
        found = [site for site in everywhere if site.index in described]
        counts = [_groups(site, described[site.index][kind]) for site in found]
        if not same:
            check_untied(model, found)
        keeps = [torch.arange(groups, device="cpu") for groups in counts]
        for site, first in zip(found, keeps, strict=True):
            if first.numel() < site.count and site.expert is None:
                cut_groups(edits, site, first, None)
        cut_experts(edits, found, keeps)
        planned += zip(found, counts, strict=True)
        for out, block in zip(outs, blocks, strict=True):
            if block[f"{kind}_bias"] and out is not None and getattr(out, "bias", None) is None:
                n = weight_matrix(out).shape[0]
                edits.add_to_bias(out, torch.zeros(n, dtype=torch.float64, device="cpu"))
    if len(keep) < count:
        cut_layers(edits, stack, keep)
    if kept_layers(stack) != (total, tuple(kept)):
        note_kept(edits, stack, total, kept)
    return planned


def _groups(site: BlockGroups, columns: int) -> int:
    groups, rest = divmod(columns, site.per)
    if rest or not 1 <= groups <= site.count:
        raise FormatError(
            f"geometry: expected at most {site.count * site.per} inputs of {site.name}, in groups of "
            f"{site.per}, got {columns}"
        )
    return groups


def _read(stack: Stack, entry: Mapping[str, Any]) -> tuple[int, list[int], list[Mapping[str, Any]]]:
    """The checked fields of one stack's description."""
    total, kept, blocks = entry.get("total"), entry.get("kept"), entry.get("blocks")
    if not _is_count(total) or not isinstance(kept, list) or not all(_is_count(index, 0) for index in kept):
        raise FormatError(f"geometry: expected total and kept of {stack.name} as block numbers, got {kept!r}")
    if kept != sorted(set(kept)) or not kept or kept[-1] >= total:
        raise FormatError(f"geometry: expected ascending indices below {total} in {stack.name}, got {kept}")
    if not isinstance(blocks, list) or len(blocks) != len(kept):
        raise FormatError(f"geometry: expected a description of each of {len(kept)} blocks in {stack.name}")
    for block in blocks:
        for kind in _counted(stack, blocks):
            if not isinstance(block, Mapping) or not _is_count(block.get(kind)):
                raise FormatError(f"geometry: expected a width of {kind} in every block of {stack.name}")
            if not isinstance(block.get(f"{kind}_bias"), bool):
                raise FormatError(f"geometry: expected {kind}_bias in every block of {stack.name}")
    return total, kept, blocks


def _counted(stack: Stack, blocks: Sequence[Mapping[str, Any]]) -> list[Kind]:
    """The kinds of groups that the data speak of: once nobody counted cross-attention or experts."""
    said = {key for block in blocks if isinstance(block, Mapping) for key in block}
    optional = {"cross", "neurons"} if stack.family.experts else {"cross"}
    return [kind for kind in kinds(stack.family) if kind in said or kind not in optional]


def _out(stack: Stack, block: nn.Module, kind: Kind) -> nn.Module | None:
    """The output projection, of the first expert where there are several; None where they lie otherwise."""
    if kind != "neurons" or not stack.family.experts:
        return block.get_submodule(out_path(stack.family, kind))
    module: Any = block.get_submodule(stack.family.experts)
    if isinstance(module, Experts):
        first: nn.Module = module.get_submodule(EXPERTS_OUT)[0]  # type: ignore[index]
        return first
    held = experts(module)
    return next((matrices[0] for name, _, matrices, _ in held if name == EXPERTS_OUT), None)


def _is_count(value: Any, least: int = 1) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _inputs(module: nn.Module) -> int:
    """in_features of a Linear, a SparseLinear or a Conv1D."""
    features = getattr(module, "in_features", None)
    return int(features) if features is not None else weight_matrix(module).shape[1]
