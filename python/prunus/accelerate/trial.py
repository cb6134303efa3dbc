"""A model with packed layers in it: what it answers, and how they are taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunus._tools.running import Batch, output_tensors
from prunus.accelerate.answers import culprits, relative_error
from prunus.accelerate.fused import fuse_faster
from prunus.accelerate.survey import Site
from prunus.accelerate.together import Chosen, Joined
from prunus.nn.fuse import Fusion

__all__ = ["Trial", "commit", "fuse"]

# Its fast path hands the weights of the layer to one fused kernel; without it linear1 and linear2 are called.
FAST_PATH = "not after torch.backends.mha.set_fastpath_enabled(False)"


@dataclass(frozen=True)
class Trial:
    """A model, its layers, and what it answered with all of them dense."""

    model: nn.Module
    sites: list[Site]
    batches: list[Batch]
    expected: list[dict[str, Tensor]]

    def put(self, chosen: Chosen) -> None:
        """The packed layers of `chosen`, every other as it came."""
        for site in self.sites:
            site.put(chosen[id(site)][1] if id(site) in chosen else site.module)

    def error(self) -> float:
        """Of the model's outputs as it is now."""
        return relative_error(
            self.expected, [output_tensors(batch.run(self.model)) for batch in self.batches]
        )


def commit(trial: Trial, chosen: Chosen, max_error: float) -> float:
    """Swap the layers in, run the model, take back what it cannot live with. Errors undo everything."""
    try:
        trial.put(chosen)
        while True:
            try:
                error = trial.error()
                break
            except AttributeError as raised:
                if not _take_back(trial.sites, chosen, raised):
                    raise
        if error > max_error:
            error = _blame(trial, chosen, max_error)
        return error
    except BaseException:
        trial.put({})
        raise


def _blame(trial: Trial, chosen: Chosen, max_error: float) -> float:
    """Take back the layers with which the model answers otherwise; all of them where that does not help."""

    def error_of(some: Sequence[Site]) -> float:
        trial.put({id(site): chosen[id(site)] for site in some})
        return trial.error()

    converted = [site for site in trial.sites if id(site) in chosen]
    guilty = culprits(converted, error_of, max_error)
    left = [site for site in converted if all(site is not other for other in guilty)]
    error = error_of(left)
    if error > max_error:
        guilty, error = converted, error_of([])
    for site in guilty:
        site.reason = f"the model's outputs change by more than {max_error:g} with it"
        del chosen[id(site)]
    return error


def fuse(
    trial: Trial, error: float, max_error: float, joined: list[Joined], chosen: Chosen
) -> tuple[list[dict[str, Any]], float]:
    """What was fused, and the error of the outputs after it. Layers of `joined` that could not be fused in
    the end leave `chosen` and are dense again. Errors undo everything."""
    found: list[tuple[Fusion, dict[str, Any]]] = []
    try:
        known = {fusion.name: (fusion.dense_ms, fusion.fused_ms) for fusion in joined}
        found = fuse_faster(trial.model, trial.sites, known)
        after = trial.error() if found else error
        if after > max(max_error, error):
            _undo(found)
            found, after = [], error
        if _leave(trial.sites, joined, {fusion.name for fusion, _ in found}, chosen):
            after = trial.error()
    except BaseException:
        _undo(found)
        trial.put({})
        raise
    return [row for _, row in found], after


def _undo(found: list[tuple[Fusion, dict[str, Any]]]) -> None:
    for fusion, _ in found:
        fusion.put(fusion.original)


def _leave(sites: list[Site], joined: list[Joined], fused: set[str], chosen: Chosen) -> bool:
    """Whether layers were chosen for fusions that are not there."""
    lost = [key for fusion in joined if fusion.name not in fused for key in fusion.layers if key in chosen]
    for site in sites:
        if id(site) in lost:
            site.put(site.module)
            del chosen[id(site)]
    return bool(lost)


def _take_back(sites: list[Site], chosen: Chosen, error: AttributeError) -> bool:
    """Some models read `layer.weight` (T5's wo, torch's encoder fast path): such layers, and all with the
    same attribute name in the same kind of parent, become dense again. False: the error is another."""
    reads = error.obj
    culprits = [site for site in sites if id(site) in chosen and reads is chosen[id(site)][1]]
    kinds = {(type(parent), leaf) for site in culprits for parent, leaf in site.places}
    for site in sites:
        if id(site) in chosen and kinds & {(type(parent), leaf) for parent, leaf in site.places}:
            site.reason = f"the model reads its .{error.name}"
            if any(isinstance(parent, nn.TransformerEncoderLayer) for parent, _ in site.places):
                site.reason += f" ({FAST_PATH})"
            site.put(site.module)
            del chosen[id(site)]
    return bool(culprits)
