"""Hooks that add up what layers see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunus.calibration.ranks import merge_stats, several
from prunus.calibration.stats import Stats
from prunus.families import weight_matrix

__all__ = ["Recorder", "check_seen", "token_rows"]

STRIP = 512  # rows of X^T X at once: the half below the diagonal is not computed, only mirrored at the end

_Sums = tuple[int, Tensor, list[Tensor]]


class _SeenAllError(Exception):
    """Nothing went wrong: the rest of the block is not needed."""


class Recorder:
    """Within the `with` block every call of the modules adds its inputs to `stats`.

    layers: name -> the modules that hold this weight (tied layers have several). needs: "sumsq", "gram".
    Set `real` (bool, (batch, tokens), False at padding) before each batch, or run it inside `batch(real)`.
    Layers that are fed the same tensor one after another (query, key, value) share the work. Hooks never stay
    behind.
    """

    def __init__(self, layers: Mapping[str, Sequence[nn.Module]], needs: frozenset[str]) -> None:
        self.layers = layers
        self.needs = needs
        self.real: Tensor | None = None
        self.stats = {name: Stats(name) for name in layers}
        self._handles: list[RemovableHandle] = []
        self._calls: Counter[str] = Counter()
        self._once: bool | None = None  # whether the first batch called every layer once
        self._may_stop = False
        self._last: tuple[Tensor, int, Tensor | None, _Sums] | None = None

    def __enter__(self) -> Recorder:
        for name, modules in self.layers.items():
            for module in modules:
                hook = self._hook(name)
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._last = None
        for stats in self.stats.values():
            if stats.gram is not None:
                stats.gram = stats.gram.triu_() + stats.gram.triu(1).t()

    @contextmanager
    def batch(self, real: Tensor | None) -> Iterator[None]:
        """Run one batch inside. It ends where the last layer has been seen, where the first batch called
        every layer once: what a block does after that (a third of BERT's) is not needed here."""
        self.real = real
        self._calls.clear()
        self._may_stop = self._once is True
        try:
            yield
        except _SeenAllError:
            pass
        finally:
            self._may_stop = False
        if self._once is None:
            self._once = all(self._calls[name] == 1 for name in self.layers)

    def check(self) -> dict[str, Stats]:
        """The statistics, of all processes together; ValueError naming layers that saw no token, or inputs
        that are not finite."""
        if several():
            weights = {name: weight_matrix(modules[0]) for name, modules in self.layers.items()}
            merge_stats(self.stats, self.needs | {"sumsq"}, weights)
        check_seen(name for name, stats in self.stats.items() if stats.tokens == 0)
        for name, stats in self.stats.items():
            if stats.sumsq is not None and not bool(torch.isfinite(stats.sumsq).all()):
                raise ValueError(f"calibration: expected finite inputs, got inf or nan at {name}")
        return self.stats

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            self._add(self.stats[name], x, self._real_of(module))
            self._calls[name] += 1
            if self._may_stop and len(self._calls) == len(self.layers):
                raise _SeenAllError

        return hook

    def _real_of(self, module: nn.Module) -> Tensor | None:
        """`real` of the tokens that the module sees: an expert, some of them (`calibration.experts`)."""
        asked = module.__dict__.get("tokens")
        if self.real is None or asked is None:
            return self.real
        total, token = asked
        return self.real.reshape(-1)[token.to(self.real.device)] if self.real.numel() == total else None

    @torch.no_grad()
    def _add(self, stats: Stats, inputs: Tensor, wanted: Tensor | None) -> None:
        tokens, squares, strips = self._sums(inputs, wanted)
        stats.tokens += tokens
        stats.sumsq = squares if stats.sumsq is None else stats.sumsq + squares
        if "gram" in self.needs:
            k = len(squares)
            if stats.gram is None:
                stats.gram = torch.zeros(k, k, device=squares.device)
            for start, strip in zip(range(0, k, STRIP), strips, strict=True):
                stats.gram[start : start + STRIP, start:] += strip

    def _sums(self, inputs: Tensor, wanted: Tensor | None) -> _Sums:
        """Number of tokens, sum of squares, and X^T X as strips of rows, each from the diagonal on."""
        if inputs.is_inference():  # no version: a change in place would go unnoticed
            return self._summed(inputs, wanted)
        version = inputs._version
        if self._last is not None:
            before, then, real, sums = self._last
            if before is inputs and then == version and real is wanted:
                return sums
        self._last = None  # frees the strips before there are new ones
        sums = self._summed(inputs, wanted)
        self._last = inputs, version, wanted, sums
        return sums

    def _summed(self, inputs: Tensor, wanted: Tensor | None) -> _Sums:
        x = token_rows(inputs.detach(), wanted).float()
        # float32 squares would be exact enough; their sum over many tokens is not.
        squares = x.square().sum(0, dtype=torch.float64)
        starts = range(0, x.shape[1], STRIP) if "gram" in self.needs else ()
        with torch.autocast(x.device.type, enabled=False):  # the model's own would round the products
            return len(x), squares, [x[:, start : start + STRIP].t() @ x[:, start:] for start in starts]


def check_seen(silent: Iterable[str]) -> None:
    """ValueError naming the layers in `silent`, if any."""
    names = ", ".join(silent)
    if names:
        raise ValueError(
            f"calibration: expected every layer to see a token, got none at {names} "
            "(leave it out with filter_fn, or give batches that reach it)"
        )


def token_rows(inputs: Tensor, real: Tensor | None) -> Tensor:
    """Inputs (..., k) as rows of real tokens. What does not have one row per token (pooled) counts whole."""
    if real is not None:
        real = real.to(inputs.device)
        if inputs.shape[:-1] == real.shape:
            return inputs[real]
        if inputs.dim() == 2 and len(inputs) == real.numel():
            return inputs[real.reshape(-1)]
        if inputs.shape[:-1] == real.shape[::-1]:
            return inputs[real.t()]
    return inputs.reshape(-1, inputs.shape[-1])
