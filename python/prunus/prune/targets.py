"""Finding the weights to prune, each once, and saying why the others are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunus._tools.arrays import FLOATS
from prunus.families import (
    READERS,
    FilterFn,
    blocks,
    in_adapter,
    is_linear,
    memory,
    outer_lists,
    owners,
    stacks,
    stored_weight,
    weight_matrix,
)
from prunus.families.experts import experts
from prunus.families.lookup import Rows, block_parts
from prunus.nn.experts import why_whole

__all__ = ["Prunable", "find_targets", "lists_left_out", "read_weights"]


ADAPTER = "part of a low-rank adapter (LoRA), which stays as it is"
OUTSIDE = "outside the blocks"
# Of the Linear weights of a model, what may be outside of the blocks without a warning.
MOST_UNSAID = 0.1
UNSEEN = "only methods that look at the weight alone reach them"

# What projections that are several in one are called. Those of a known family get a budget per part.
FUSED = frozenset({"query_key_value", "qkv", "qkv_proj", "Wqkv", "c_attn", "gate_up_proj", "in_proj"})


@dataclass
class Prunable:
    """One weight to prune.

    name: qualified name of the first module that holds it. modules: every selected module that holds it.
    parts: rows with a budget of their own, {"": all rows} where the weight is not fused.
    notes: what the report says about it. unseen: why neither its inputs nor its gradients can be seen.
    """

    name: str
    modules: dict[str, Any]
    parts: dict[str, Rows] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unseen: str = ""

    @property
    def weight(self) -> Tensor:
        """The weight as a detached (n, k) view: writing into it changes the model."""
        return weight_matrix(self.modules[self.name])

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k), known before a parametrized weight is folded."""
        module = self.modules[self.name]
        a, b = module.weight.shape
        return (a, b) if isinstance(module, nn.Linear) else (b, a)

    def row(self, status: str, note: str) -> dict[str, Any]:
        """The target's row in a report."""
        n, k = self.shape
        kind = type(self.modules[self.name]).__name__
        return {
            "name": self.name,
            "kind": kind,
            "shape": (n, k),
            "weights": n * k,
            "status": status,
            "note": note,
        }

    def as_matrix(self, values: Tensor) -> Tensor:
        """A tensor laid out like the module's parameter (its gradient) as (n, k)."""
        stored = self.modules[self.name].weight
        return values.t() if stored.stride() != self.weight.stride() else values


def find_targets(model: nn.Module, filter_fn: FilterFn | None) -> tuple[list[Prunable], list[dict[str, Any]]]:
    """Targets in model order, and a report row {name, kind, shape, weights, note} per weight left alone.

    Without `filter_fn`: every Linear, Conv1D and expert inside the blocks of the model (everywhere when it
    has none), unless its weight is shared with another kind of module. With it: exactly what it selects.
    """
    holders = owners(model)
    parts = _fused_parts(model)
    inside = _blocks_that_matter(model)
    targets: dict[object, Prunable] = {}
    skipped: list[dict[str, Any]] = []
    covered = {_identity(stored_weight(module)) for module in model.modules() if is_linear(module)}
    for name, module in model.named_modules():
        for key, parameter, matrices, rows in experts(module):
            whole = why_whole(module) if name else "experts that are the model itself"
            unseen = f"{whole}: {UNSEEN}" if whole else ""
            covered.add(_identity(parameter))
            for index, expert in enumerate(matrices):
                path = f"{name}.{key}.{index}".lstrip(".")
                reason = _unfit(expert, expert.weight)
                if reason is None and filter_fn is not None:
                    reason = None if filter_fn(expert, path) else "left out by filter_fn"
                elif reason is None:
                    reason = _left_out_by_default(path, inside, [])
                if reason is not None:
                    skipped.append(_row(path, expert, expert.weight, reason))
                else:
                    targets[path] = Prunable(path, {path: expert}, dict(rows), unseen=unseen)
        if not is_linear(module):
            continue
        weight = stored_weight(module)
        reason = _unfit(module, weight)
        if reason is None and filter_fn is not None:
            reason = None if filter_fn(module, name) else "left out by filter_fn"
        elif reason is None:
            reason = _left_out_by_default(name, inside, holders[memory(weight)])
        if reason is not None:
            skipped.append(_row(name, module, weight, reason))
            continue
        target = targets.setdefault(_identity(weight), Prunable(name, {name: module}))
        target.modules[name] = module
        if not target.parts:
            target.parts = parts.get(name) or {"": range(target.shape[0])}
            if "" in target.parts and name.rpartition(".")[2] in FUSED:
                target.notes.append("fused, and of no known family: its parts share one budget")
            others = [owner for owner, _ in holders[memory(weight)] if owner != name]
            if others:
                target.notes.append(f"shared with {', '.join(others)}")
    skipped += _other_weights(model, covered)
    return list(targets.values()), skipped


def lists_left_out(model: nn.Module, skipped: list[dict[str, Any]]) -> list[str]:
    """Names of lists of modules, with a tenth of the model's Linear weights or more, that were left out as a
    whole: they look like no stack of blocks, or are of no known family beside one that is."""
    outside = {row["name"]: row["weights"] or 0 for row in skipped if row["note"] == OUTSIDE}
    weights = [stored_weight(module) for module in model.modules() if is_linear(module)]
    every = sum(w.numel() for w in weights if w is not None and not nn.parameter.is_lazy(w))
    found = []
    for name in outer_lists(model):
        size = sum(count for path, count in outside.items() if path.startswith(f"{name}."))
        if size >= MOST_UNSAID * every > 0:
            found.append(name)
    return found


def read_weights(model: nn.Module) -> dict[str, str]:
    """Name -> kind of the module above that reads the weight of this Linear instead of calling it."""
    return {
        f"{name}.{path}".lstrip("."): type(module).__name__
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, READERS)
        for path, child in module.named_modules()
        if is_linear(child)
    }


def _identity(weight: Tensor | None) -> tuple[int, tuple[int, ...]]:
    """Equal for parameters that are the same matrix, be they one object or two."""
    known = weight is not None and not nn.parameter.is_lazy(weight)
    return memory(weight), tuple(weight.shape) if weight is not None and known else ()


def _blocks_that_matter(model: nn.Module) -> tuple[str, ...]:
    """Names of the blocks; none where a list of modules was found that is not the body of the model."""
    names = tuple(blocks(model))
    within = outside = 0
    for name, module in model.named_modules():
        inside = _is_inside(name, names)
        # Experts are no Linear, but they are the body of the model.
        held = [stored_weight(module)] if is_linear(module) else module._parameters.values() if inside else []
        size = sum(w.numel() for w in held if w is not None and not nn.parameter.is_lazy(w))
        within, outside = (within + size, outside) if inside else (within, outside + size)
    return names if within >= outside else ()


def _is_inside(name: str, names: tuple[str, ...]) -> bool:
    return name in names or name.startswith(tuple(f"{block}." for block in names))


def _fused_parts(model: nn.Module) -> dict[str, dict[str, Rows]]:
    found = {}
    for stack in stacks(model):
        for index, block in enumerate(stack.layers):
            for path in filter(None, (stack.family.qkv, stack.family.gate_up)):
                if is_linear(block.get_submodule(path)) and "weight" in block.get_submodule(path)._parameters:
                    prefix = f"{stack.name}.{index}" if stack.name else str(index)
                    found[f"{prefix}.{path}"] = block_parts(stack, block, path)
    return found


def _unfit(module: Any, weight: Tensor | None) -> str | None:
    """Why a Linear cannot be pruned at all; None when it can."""
    if weight is None:
        packed = "packed" in module._buffers
        return "already packed" if packed else "its weight is not a parameter (computed by a hook?)"
    if nn.parameter.is_lazy(weight):
        return "not initialised"
    if type(weight.data) is not Tensor or weight.layout != torch.strided:
        return f"weight is a {type(weight.data).__name__} of layout {weight.layout}"
    if str(weight.dtype).removeprefix("torch.") not in FLOATS:
        return f"dtype {weight.dtype}"
    if weight.is_meta:
        return "on the meta device"
    if weight.dim() != 2 or weight.numel() == 0:
        return f"weight of shape {tuple(weight.shape)}"
    return None


def _left_out_by_default(
    name: str, inside: tuple[str, ...], owners: list[tuple[str, nn.Module]]
) -> str | None:
    if in_adapter(name):
        return ADAPTER
    strangers = [owner for owner, module in owners if not is_linear(module)]
    if strangers:
        return f"shared with {', '.join(strangers)}"
    if inside and not _is_inside(name, inside):
        return OUTSIDE
    return None


def _other_weights(model: nn.Module, covered: set[Any]) -> Iterator[dict[str, Any]]:
    """Every other parameter with two or more axes."""
    seen = set(covered)
    for name, module in model.named_modules():
        if "packed" in module._buffers and not is_linear(module):
            yield _row(name, module, None, "already packed")
        for key, parameter in module._parameters.items():
            if parameter is None or _identity(parameter) in seen or nn.parameter.is_lazy(parameter):
                continue
            seen.add(_identity(parameter))
            if parameter.dim() >= 2:
                kind = "embedding" if isinstance(module, nn.Embedding) else "not a Linear"
                if parameter.dim() == 3 and not hasattr(module, "kernel_size"):
                    kind = f"{len(parameter)} matrices in one parameter, of no known layout"
                path = name if key == "weight" else f"{name}.{key}".lstrip(".")
                kind = ADAPTER if in_adapter(path) else kind
                yield _row(path, module, parameter, kind)


def _row(name: str, module: nn.Module, weight: Tensor | None, reason: str) -> dict[str, Any]:
    known = weight is not None and not nn.parameter.is_lazy(weight)
    return {
        "name": name,
        "kind": type(module).__name__,
        "shape": tuple(weight.shape) if weight is not None and known else None,
        "weights": weight.numel() if weight is not None and known else None,
        "status": "skipped",
        "note": reason,
    }
