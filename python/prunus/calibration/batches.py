"""Running sample batches through a model, without leaving a trace in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from prunus._tools.running import call_with, device_of, evaluation_mode, moved

__all__ = ["Calibration", "as_calibration", "calibration_for", "real_tokens", "run_batch", "untouched"]


@dataclass
class Calibration:
    """Sample inputs, and how to run them.

    batches: each a tensor, a mapping (dict, BatchEncoding) passed as keywords, or a tuple passed in order;
    a single tensor or mapping counts as one batch. Read once and kept.
    sequential: every block is calibrated on the outputs of the already pruned blocks before it, with the
    statistics of one block in memory; False: one pass over the unpruned model, all statistics in memory.
    forward: how to run a batch, (model, batch) -> anything; default `model(...)`.
    Batches follow the model to its device.
    real: which tokens of a batch are no padding, batch -> bool (batch, tokens), None for all; default: its
    attention_mask (or the negated src_key_padding_mask), and all tokens when it has none.
    progress: a bar for what takes longer than a second.

    Raises TypeError when batches is not iterable, ValueError when it is empty.

    >>> import torch
    >>> len(Calibration(torch.zeros(2, 3)).batches)
    1
    """

    batches: Iterable[Any]
    sequential: bool = True
    forward: Callable[[nn.Module, Any], Any] | None = None
    real: Callable[[Any], Tensor | None] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.batches, (Tensor, Mapping)):
            self.batches = [self.batches]
        elif isinstance(self.batches, (str, bytes)) or not isinstance(self.batches, Iterable):
            kind = type(self.batches).__name__
            raise TypeError(f"calibration: expected an iterable of batches, got {kind}")
        self.batches = list(self.batches)
        if not self.batches:
            raise ValueError("calibration: expected at least one batch, got none")
        for batch in self.batches:
            if not isinstance(batch, (Tensor, Mapping, tuple, list)) and self.forward is None:
                kind = type(batch).__name__
                raise TypeError(f"calibration: expected batches of tensors, mappings or tuples, got {kind}")


def as_calibration(calibration: Any) -> Calibration:
    """A Calibration as it is, anything else as its batches."""
    return calibration if isinstance(calibration, Calibration) else Calibration(calibration)


def calibration_for(model: nn.Module, calibration: Any) -> Calibration:
    """`as_calibration` with the tensors of all batches where the model is."""
    given, device = as_calibration(calibration), device_of(model)
    return replace(given, batches=[moved(batch, device) for batch in given.batches])


def run_batch(model: nn.Module, batch: Any, calibration: Calibration) -> Any:
    """The model's output for one batch."""
    if calibration.forward is not None:
        return calibration.forward(model, batch)
    if isinstance(batch, Mapping):
        return call_with(model, batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def real_tokens(model: nn.Module, batch: Any, calibration: Calibration) -> Tensor | None:
    """bool (batch, tokens), False at padding; None when the batch says nothing about padding."""
    if calibration.real is not None:
        found = calibration.real(batch)
        return None if found is None else found.bool()
    named: Mapping[str, Any] = {}
    if isinstance(batch, Mapping):
        named = batch
    elif isinstance(batch, (tuple, list)) and calibration.forward is None:
        try:
            named = inspect.signature(model.forward).bind(*batch).arguments
        except TypeError:
            named = {}
    for key, padding in (("attention_mask", False), ("src_key_padding_mask", True)):
        mask = named.get(key)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return mask.bool() ^ padding
    return None


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without a key/value cache; modes and config are as before afterwards."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    caches = [(c, c.use_cache) for c in configs.values() if getattr(c, "use_cache", None)]
    with evaluation_mode(model):
        try:
            for config, _ in caches:
                config.use_cache = False
            yield
        finally:
            for config, value in caches:
                config.use_cache = value
