"""A model with packed layers in it: what it answers, and how they are taken back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from prunus._tools.running import Batch, output_tensors
from prunus.accelerate.answers import culprits, relative_error
from prunus.accelerate.experts import Mixture
from prunus.accelerate.fused import fuse_faster
from prunus.accelerate.survey import Site
from prunus.accelerate.together import Chosen, Joined
from prunus.nn.attention import take_attention
from prunus.nn.fuse import Fusion
from prunus.nn.weight import weight_reads

__all__ = ["Trial", "attend", "commit", "fuse"]

# Its fast path hands the weights of the layer to one fused kernel, which packed layers would keep it from;
# without it linear1 and linear2 are called.
FAST_PATH = "not after torch.backends.mha.set_fastpath_enabled(False)"


@dataclass(frozen=True)
class Trial:
    """A model, its layers, and what it answered with all of them dense. mixtures: whose matrices are among
    the sites."""

    model: nn.Module
    sites: list[Site]
    batches: list[Batch]
    expected: list[dict[str, Tensor]]
    mixtures: list[Mixture] = field(default_factory=list)
    fused: list[Fusion] = field(default_factory=list)
    attention: list[Callable[[], None]] = field(default_factory=list)  # takes ours out again

    def put(self, chosen: Chosen) -> None:
        """The packed layers of `chosen`, every other as it came."""
        for site in self.sites:
            site.put(chosen[id(site)][1] if id(site) in chosen else site.module)
        for mixture in self.mixtures:
            mixture.put(chosen)

    def settle(self, chosen: Chosen) -> None:
        """For good: experts of which nothing is packed any more are as they came, others let go of that."""
        for mixture in self.mixtures:
            if mixture.put(chosen):
                mixture.split.own_weights_()

    def undo(self) -> None:
        """The model as it came."""
        self.leave_attention()
        for fusion in self.fused:
            fusion.put(fusion.original)
        self.put({})

    def leave_attention(self) -> None:
        """Theirs again, where ours was put in."""
        while self.attention:
            self.attention.pop()()

    def error(self) -> float:
        """Of the model's outputs as it is now."""
        return relative_error(
            self.expected, [output_tensors(batch.run(self.model)) for batch in self.batches]
        )


def commit(trial: Trial, chosen: Chosen, max_error: float) -> float:
    """Swap the layers in, run the model, take back what it cannot live with."""
    trial.put(chosen)
    error = _without_readers(trial, chosen)
    return _blame(trial, chosen, max_error) if error > max_error else error


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
    the end leave `chosen` and are dense again."""
    known = {fusion.name: (fusion.dense_ms, fusion.fused_ms) for fusion in joined}
    rows = fuse_faster(trial.model, trial.sites, known, trial.fused)
    after = trial.error() if rows else error
    if after > max(max_error, error):
        for fusion in trial.fused:
            fusion.put(fusion.original)
        rows, after = [], error
    if _leave(trial.sites, joined, {row["name"] for row in rows}, chosen):
        after = trial.error()
    return rows, after


def attend(
    trial: Trial, row: dict[str, Any] | None, error: float, max_error: float
) -> tuple[list[dict[str, Any]], float]:
    """Attention by our operator, where `row` says that it is faster, as `fuse`: the row, and the error of the
    outputs after it; no row where the outputs change too much."""
    if row is None:
        return [], error
    trial.attention.append(take_attention(trial.model))
    after = trial.error()
    if after > max(max_error, error):
        trial.leave_attention()
        return [], error
    return [row], after


def _leave(sites: list[Site], joined: list[Joined], fused: set[str], chosen: Chosen) -> bool:
    """Whether layers were chosen for fusions that are not there."""
    lost = [key for fusion in joined if fusion.name not in fused for key in fusion.layers if key in chosen]
    for site in sites:
        if id(site) in lost:
            site.put(site.module)
            del chosen[id(site)]
    return bool(lost)


def _without_readers(trial: Trial, chosen: Chosen) -> float:
    """The error of the outputs, once the layers whose attributes the model reads are dense again."""
    while True:
        with weight_reads() as reads:
            try:
                error = trial.error()
            except AttributeError as raised:
                if not _take_back(trial.sites, chosen, {id(raised.obj)}, raised.name):
                    raise
                continue
        if not _take_back(trial.sites, chosen, _slowed(trial.sites, chosen, reads), "weight"):
            return error


def _slowed(sites: list[Site], chosen: Chosen, reads: dict[int, bool]) -> set[int]:
    """Ids of the layers whose weight was unpacked, or is wanted for torch's fast path. Reads of its dtype
    (T5's wo) cost nothing."""
    layers = {id(chosen[id(site)][1]): site for site in sites if id(site) in chosen}
    return {key for key, values in reads.items() if key in layers and (values or _in_encoder(layers[key]))}


def _in_encoder(site: Site) -> bool:
    return any(isinstance(parent, nn.TransformerEncoderLayer) for parent, _ in site.places)


def _take_back(sites: list[Site], chosen: Chosen, layers: Collection[int], attribute: Any) -> bool:
    """The layers with these ids, and all with the same attribute name in the same kind of parent, become
    dense again. False: there were none."""
    culprits = [site for site in sites if id(site) in chosen and id(chosen[id(site)][1]) in layers]
    kinds = {(type(parent), leaf) for site in culprits for parent, leaf in site.places}
    for site in sites:
        if id(site) in chosen and kinds & {(type(parent), leaf) for parent, leaf in site.places}:
            site.reason = f"the model reads its .{attribute}"
            if _in_encoder(site):
                site.reason += f" ({FAST_PATH})"
            site.put(site.module)
            del chosen[id(site)]
    return bool(culprits)
