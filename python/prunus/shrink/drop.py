"""Dropping whole blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.calibration.batches import Calibration
from prunus.families import Stack
from prunus.shrink.cut import cut_layers, refresh_numbers
from prunus.shrink.edits import Edits
from prunus.shrink.measure import Moments, block_influence
from prunus.shrink.report import size
from prunus.shrink.scores import lowest
from prunus.shrink.targets import Layers

__all__ = ["drop_layers"]


def drop_layers(
    model: nn.Module, found: Sequence[Stack], what: Layers, batches: Calibration | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Remove blocks of every stack; rows and summary of the report."""
    for stack in found:
        _check(stack, what, batches)
    measured: list[tuple[Tensor | None, list[Moments]]] = [(None, []) for _ in found]
    if batches is not None:
        measured = list(block_influence(model, found, batches))
    edits, rows, keeps = Edits(), [], []
    for stack, (influence, moments) in zip(found, measured, strict=True):
        keep = _kept(stack, what, influence)
        notes = _fold_means(edits, stack, keep, moments) if what.compensate == "bias" and moments else {}
        if len(keep) < len(stack.layers):
            cut_layers(edits, stack, keep)
        rows += [_row(stack, index, index in keep, influence, notes) for index in range(len(stack.layers))]
        keeps.append((stack, keep))
    if any(len(keep) < len(stack.layers) for stack, keep in keeps):
        refresh_numbers(edits, keeps)
    edits.apply()
    return rows, {"importance": "influence" if isinstance(what.drop, int) else "given", "config": ""}


def _kept(stack: Stack, what: Layers, influence: Tensor | None) -> list[int]:
    """Indices of the blocks that stay."""
    gone = what.drop if isinstance(what.drop, tuple) else ()
    if isinstance(what.drop, int) and influence is not None:
        if stack.family.first_stays:
            influence = influence.clone()
            influence[0] = torch.inf
        gone = tuple(lowest(influence, what.drop)[0].tolist())
    return [index for index in range(len(stack.layers)) if index not in gone]


def _check(stack: Stack, what: Layers, batches: Calibration | None) -> None:
    count = len(stack.layers)
    wanted = what.drop if isinstance(what.drop, int) else len(what.drop)
    if wanted >= count:
        raise ValueError(f"drop: expected fewer than the {count} blocks of {stack.name}, got {wanted}")
    if isinstance(what.drop, tuple) and what.drop and what.drop[-1] >= count:
        raise ValueError(f"drop: expected indices below {count}, got {what.drop[-1]}")
    if isinstance(what.drop, int) and batches is None:
        raise ValueError("calibration: expected batches to measure the influence of blocks, got None")
    if isinstance(what.drop, tuple) and 0 in what.drop and stack.family.first_stays:
        raise ValueError(f"drop: expected no first block of {stack.name}, got 0: {stack.family.first_stays}")
    for flag in stack.family.index_dependent:
        if getattr(stack.config, flag, False):
            raise ValueError(f"model: expected blocks that do not depend on their index, got config.{flag}")


def _fold_means(
    edits: Edits, stack: Stack, keep: Sequence[int], moments: Sequence[Moments]
) -> dict[int, str]:
    """Plan to add what missing blocks added on average to the last bias of the block before them.

    Block index -> "folded" or "added". Nothing holds it before the first block that stays, or where the
    family has no such bias.
    """
    notes: dict[int, str] = {}
    if not stack.family.out_bias:
        return notes
    ends = [*keep[1:], len(stack.layers)]
    for index, end in zip(keep, ends, strict=True):
        if end > index + 1:
            module = stack.layers[index].get_submodule(stack.family.out_bias)
            notes[index] = "added" if edits.get(module, "bias") is None else "folded"
            edits.add_to_bias(module, torch.stack([m.mean for m in moments[index + 1 : end]]).sum(0))
    return notes


def _row(
    stack: Stack, index: int, stays: bool, influence: Tensor | None, notes: dict[int, str]
) -> dict[str, Any]:
    parameters, mb = size([stack.layers[index]])
    return {
        "layer": f"{stack.name}.{index}",
        "kind": "layers",
        "before": 1,
        "after": int(stays),
        "parameters_before": parameters,
        "parameters_after": parameters if stays else 0,
        "mb_before": mb,
        "mb_after": mb if stays else 0.0,
        "influence": None if influence is None else influence[index].item(),
        "bias": notes.get(index, ""),
    }
