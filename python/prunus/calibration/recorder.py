"""Hooks that add up what layers see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunus.calibration.stats import Stats

__all__ = ["Recorder", "check_seen", "token_rows"]


class Recorder:
    """Within the `with` block every call of the modules adds its inputs to `stats`.

    layers: name -> the modules that hold this weight (tied layers have several). needs: "sumsq", "gram".
    Set `real` (bool, (batch, tokens), False at padding) before each batch. Hooks never stay behind.
    """

    def __init__(self, layers: Mapping[str, Sequence[nn.Module]], needs: frozenset[str]) -> None:
        self.layers = layers
        self.needs = needs
        self.real: Tensor | None = None
        self.stats = {name: Stats(name) for name in layers}
        self._handles: list[RemovableHandle] = []

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

    def check(self) -> dict[str, Stats]:
        """The statistics; ValueError naming layers that saw no token, or inputs that are not finite."""
        check_seen(name for name, stats in self.stats.items() if stats.tokens == 0)
        for name, stats in self.stats.items():
            if stats.sumsq is not None and not bool(torch.isfinite(stats.sumsq).all()):
                raise ValueError(f"calibration: expected finite inputs, got inf or nan at {name}")
        return self.stats

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._add(self.stats[name], args[0] if args else next(iter(kwargs.values())))

        return hook

    @torch.no_grad()
    def _add(self, stats: Stats, inputs: Tensor) -> None:
        x = token_rows(inputs.detach(), self.real).float()
        stats.tokens += len(x)
        # float32 squares would be exact enough; their sum over many tokens is not.
        squares = x.square().sum(0, dtype=torch.float64)
        stats.sumsq = squares if stats.sumsq is None else stats.sumsq + squares
        if "gram" in self.needs:
            if stats.gram is None:
                stats.gram = torch.zeros(x.shape[1], x.shape[1], device=x.device)
            stats.gram.addmm_(x.t(), x)


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
