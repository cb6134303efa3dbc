"""Layer by layer through a model: measure a block, let the caller prune it, go on with its new outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from prunus._tools.progress import progress
from prunus.calibration.batches import Calibration, real_tokens, run_batch
from prunus.calibration.chain import Chain
from prunus.calibration.ranks import merged_order
from prunus.calibration.recorder import Recorder, check_seen
from prunus.calibration.stats import Stats
from prunus.families import blocks

__all__ = ["Group", "walk"]

#: Name of a layer -> the modules that hold its weight.
NamedLayers = Mapping[str, Sequence[nn.Module]]


class Group:
    """Layers that are measured together; `measure` runs the batches with the weights as they are now."""

    def __init__(self, layers: NamedLayers, needs: frozenset[str], run: Callable[[Recorder], None]) -> None:
        self.names = list(layers)
        self._layers, self._needs, self._run = layers, needs, run

    def measure(self) -> dict[str, Stats]:
        """Name -> statistics of this group's layers."""
        with Recorder(self._layers, self._needs) as recorder:
            self._run(recorder)
        return recorder.check()


def walk(
    model: nn.Module, layers: NamedLayers, calibration: Calibration, needs: frozenset[str]
) -> Iterator[Group]:
    """Yield groups that cover `layers`, in the order they run; call it inside `untouched(model)` and no_grad.

    Sequential: a group per transformer block, and one per layer outside the blocks; when the caller asks for
    the next group, the block just left is run again and its outputs feed the next. Otherwise one group.
    Where a model does more between its blocks than hand over the output, whole passes replace that short cut.

    Raises ValueError when a layer saw no token.
    """

    runner = _Walk(model, layers, calibration, needs)
    if not calibration.sequential:
        yield Group(layers, needs, runner.whole)
        return
    for group in progress(runner.groups(), "calibrating", runner.total(), calibration.progress):
        if group is not None:
            yield group


class _Walk:
    def __init__(
        self, model: nn.Module, layers: NamedLayers, calibration: Calibration, needs: frozenset[str]
    ):
        self.model, self.layers, self.calibration, self.needs = model, layers, calibration, needs
        self.chain = Chain(blocks(model))

    def whole(self, recorder: Recorder) -> None:
        """One pass of the whole model."""
        for batch in self.calibration.batches:
            recorder.real = real_tokens(self.model, batch, self.calibration)
            run_batch(self.model, batch, self.calibration)

    def groups(self) -> Iterator[Group | None]:
        inside = {name: [n for n in self.layers if _is_in(n, name)] for name in self.chain.blocks}
        placed = {name for names in inside.values() for name in names}
        order = self._setup()
        early = [name for name, place in order.items() if place == "before" and name not in placed]
        for name in early:
            yield self._group([name], self.whole)
        if early:
            self._setup()
        last = max((i for i, names in enumerate(inside.values()) if names), default=-1)
        for index, names in enumerate(inside.values()):
            yield self._group(names, partial(self._block, index)) if names else None
            if self.chain.intact and index < last:
                self.chain.advance(index)
        for name, place in order.items():
            if place == "after" and name not in placed:
                yield self._group([name], self.whole)

    def total(self) -> int:
        """How many times `groups` yields."""
        loose = [n for n in self.layers if not any(_is_in(n, block) for block in self.chain.blocks)]
        return len(self.chain.blocks) + len(loose)

    def _group(self, names: list[str], run: Callable[[Recorder], None]) -> Group:
        return Group({name: self.layers[name] for name in names}, self.needs, run)

    def _block(self, index: int, recorder: Recorder) -> None:
        if not self.chain.intact:
            self.whole(recorder)
            return
        for number, batch in enumerate(self.calibration.batches):
            with recorder.batch(real_tokens(self.model, batch, self.calibration)):
                self.chain.run(index, number)

    def _setup(self) -> dict[str, str]:
        """Record the calls of the blocks; each layer in the order of its first call, "before" or "after" the
        first block starts. ValueError when a layer is never called."""
        order: dict[str, str] = {}

        def see(name: str, *_: Any) -> None:
            order.setdefault(name, "after" if self.chain.started else "before")

        handles = [
            module.register_forward_pre_hook(partial(see, name))
            for name, modules in self.layers.items()
            for module in modules
        ]
        try:
            with self.chain.recording():
                for batch in self.calibration.batches:
                    run = partial(run_batch, self.model, batch, self.calibration)
                    only_start = self.chain.uniform and len(order) == len(self.layers)
                    self.chain.next_batch(run, only_start)
        finally:
            for handle in handles:
                handle.remove()
        order = merged_order(order)
        check_seen(name for name in self.layers if name not in order)
        return order


def _is_in(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.")
