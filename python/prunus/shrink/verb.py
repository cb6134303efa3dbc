"""`shrink_`: from the target to the smaller model."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from prunus.calibration.batches import Calibration, calibration_for
from prunus.families import Stack, find_stacks
from prunus.shrink.cut import check_untied, cut_experts, cut_groups, set_group_numbers
from prunus.shrink.drop import drop_layers
from prunus.shrink.edits import Edits
from prunus.shrink.groups import BlockGroups, kinds, sites
from prunus.shrink.measure import Moments, input_moments, repaired_weights, taylor_scores
from prunus.shrink.report import ShrinkReport, size
from prunus.shrink.saving import save_ordinarily
from prunus.shrink.scores import alike, choose, constants, reconstruction, weight_norms
from prunus.shrink.targets import Heads, Layers, Neurons, Removal

__all__ = ["shrink_"]


def shrink_(model: nn.Module, what: Removal, calibration: Any = None, round_to: int = 1) -> ShrinkReport:
    """Remove neurons, heads or whole blocks of a transformer in place: it really gets smaller.

    Parameters
    ----------
    model : a model of a known family (`prunus.families`), dense weights, any float dtype. Of several stacks
        of blocks (an encoder and a decoder, two towers) each is cut, with a budget of its own; for one of
        them pass the sub-module that holds it (T5's own config is a copy in each: that of the model stays).
    what : `Neurons(sparsity)`, `Heads(sparsity)` or `Layers(drop)`.
    calibration : batches to run the model on (tensors, tuples, dicts) or a `prunus.calibration.Calibration`.
        Padding, known from an `attention_mask` (batch, length), is left out.
    round_to : the width that stays (neurons, or heads * head size) is rounded up to a multiple of this, never
        beyond the present width: fewer may go than `sparsity` asks. 8 suits CPU kernels.

    Weights, biases, head counts, key/value cache slots and config numbers stay consistent; the weights that
    were cut are new parameters (`check_optimizer`). Widths may differ from block to block: `save_pretrained`
    then fills up with zeros what the config cannot say. A class without biases (Mistral, Qwen2, Phi-3) has no
    place for those that `compensate` adds: its `save_pretrained` is refused, `prunus.save` and
    `prunus.checkpoint.write_pretrained` keep them. With an error the model is left as it was. Raises
    TypeError or ValueError: unknown architecture, missing calibration, shared weights, a layer that saw no
    token, NaN scores.

    >>> import torch
    >>> from prunus.shrink import Neurons, shrink_
    >>> from prunus.families import Family, register_family
    >>> register_family(Family(name="demo", blocks="demo", qkv="qkv", o="o", up="up", down="down", act="act"))
    >>> block = nn.ModuleDict({"qkv": nn.Linear(4, 12), "o": nn.Linear(4, 4), "up": nn.Linear(4, 8)})
    >>> block.update({"down": nn.Linear(8, 4), "act": nn.ReLU()})
    >>> model = nn.ModuleDict({"demo": nn.ModuleList([block])})
    >>> report = shrink_(model, Neurons(0.5))
    >>> block["up"].out_features, block["down"].in_features
    (4, 4)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(what, (Neurons, Heads, Layers)):
        raise TypeError(f"what: expected Neurons, Heads or Layers, got {type(what).__name__}")
    if isinstance(round_to, bool) or not isinstance(round_to, Integral):
        raise TypeError(f"round_to: expected an integer, got {type(round_to).__name__}")
    if round_to < 1:
        raise ValueError(f"round_to: expected >= 1, got {round_to}")
    batches = None if calibration is None else calibration_for(model, calibration)
    found = find_stacks(model)
    before = size([model])
    if isinstance(what, Layers):
        rows, summary = drop_layers(model, found, what, batches)
    else:
        rows, summary = _remove_groups(model, found, what, batches, int(round_to))
    after = size([model])
    summary |= {
        "reached": sum(row["parameters_before"] for row in rows) / max(before[0], 1),
        "biases_added": sum(row["bias"] == "added" for row in rows),
        "parameters_before": before[0],
        "parameters_after": after[0],
        "mb_before": before[1],
        "mb_after": after[1],
    }
    if summary["config"] or summary["biases_added"]:
        save_ordinarily(model)
    return ShrinkReport(rows, summary)


def _remove_groups(
    model: nn.Module,
    every: Sequence[Stack],
    what: Neurons | Heads,
    batches: Calibration | None,
    round_to: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    by_stack = [_sites(stack, what) for stack in every]
    found = [site for own in by_stack for site in own]
    check_untied(model, found)
    importance = what.importance
    if importance == "auto":
        importance = "weight" if batches is None else "activation"
    if importance != "weight" and batches is None:
        raise ValueError(f"calibration: expected batches for importance {importance!r}, got None")
    _check_experts(found, what)
    moments = None
    if what.compensate == "weight" and batches is None:
        raise ValueError("calibration: expected batches for compensate 'weight', got None")
    if batches is not None and (what.compensate != "none" or importance == "activation"):
        moments = input_moments(model, found, batches)
    scores = _scores(model, found, what, importance, batches, moments)
    keeps: list[Tensor] = []
    for stack, own in zip(every, by_stack, strict=True):
        theirs = alike(own, scores[len(keeps) : len(keeps) + len(own)])
        mine = choose(own, theirs, what.sparsity, what.scope, round_to)
        if isinstance(what, Heads) and stack.family.even_heads and len({keep.numel() for keep in mine}) > 1:
            raise ValueError(
                f"scope: expected 'layer' for {stack.family.name!r}, whose blocks need equal head counts"
            )
        keeps += mine
    weights: list[Tensor | None] = [None] * len(found)
    if what.compensate == "weight" and batches is not None and moments is not None:
        weights = repaired_weights(model, found, keeps, moments, batches)
    edits, rows = Edits(), []
    for index, (site, keep) in enumerate(zip(found, keeps, strict=True)):
        means = None
        if what.compensate != "none":
            means = constants(site) if moments is None else moments[index].mean
        modules = site.modules
        row: dict[str, Any] = {
            "layer": site.name,
            "kind": site.kind,
            "before": site.count,
            "after": keep.numel(),
            "bias": "",
        }
        row["parameters_before"], row["mb_before"] = size(modules)
        if keep.numel() < site.count and site.expert is None:
            row["bias"] = cut_groups(edits, site, keep, means, weights[index])
        rows.append((row, modules))
    cut_experts(edits, found, keeps)
    config = set_group_numbers(edits, found, [keep.numel() for keep in keeps])
    edits.apply()
    for site, (row, modules) in zip(found, rows, strict=True):
        after = size(modules) if site.expert is None else _share(row)  # the modules are views of what was
        row["parameters_after"], row["mb_after"] = after
    return [row for row, _ in rows], {"importance": importance, "config": config}


def _share(row: dict[str, Any]) -> tuple[int, float]:
    """(parameters, MB) of an expert whose neurons have each as many."""
    share = row["after"] / row["before"]
    return round(row["parameters_before"] * share), row["mb_before"] * share


def _check_experts(found: Sequence[BlockGroups], what: Neurons | Heads) -> None:
    """The experts of a mixture have no biases, equal widths, and no modules of their own."""
    first = next((site for site in found if site.expert is not None), None)
    if first is None:
        return
    refused = {
        "scope": (what.scope, "model", "'layer'"),
        "importance": (what.importance, "gradient", "'weight' or 'activation'"),
        "compensate": (what.compensate, "weight", "'bias' or 'none'"),
    }
    for argument, (got, bad, expected) in refused.items():
        if got == bad:
            raise ValueError(f"{argument}: expected {expected} for the experts of {first.name}, got {got!r}")


def _sites(stack: Stack, what: Neurons | Heads) -> list[BlockGroups]:
    if isinstance(what, Neurons):
        return sites(stack, "neurons")
    return [site for kind in kinds(stack.family) if kind != "neurons" for site in sites(stack, kind)]


def _scores(
    model: nn.Module,
    found: Sequence[BlockGroups],
    what: Neurons | Heads,
    importance: str,
    batches: Calibration | None,
    moments: Sequence[Moments] | None,
) -> list[Tensor]:
    if importance == "gradient" and batches is not None:
        return taylor_scores(model, found, batches, what.loss)
    if importance == "activation" and moments is not None:
        scores = [reconstruction(site, moment) for site, moment in zip(found, moments, strict=True)]
    else:
        scores = [weight_norms(site) for site in found]
    if what.scope == "model":
        scores = [score / score.sum().clamp_min(1e-300) for score in scores]
    return scores
