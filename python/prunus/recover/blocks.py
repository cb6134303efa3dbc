"""The pruned model and its teacher, run block by block on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from prunus.calibration.chain import Chain
from prunus.families import blocks
from prunus.recover.layers import Fit
from prunus.recover.pairs import Pair

if TYPE_CHECKING:
    from prunus.recover.session import Session

__all__ = ["BlockRuns"]


class BlockRuns:
    """Both models, run a block at a time where they allow it (`Chain`), else as a whole for every block."""

    def __init__(self, session: Session, batches: list[tuple[Any, Tensor | None]]) -> None:
        self._session, self._batches = session, batches
        self._mine, self._theirs = (Chain(blocks(m)) for m in (session.model, session.teacher))
        for model, chain in ((session.model, self._mine), (session.teacher, self._theirs)):
            with chain.recording():
                for batch, _ in batches:
                    chain.next_batch(partial(session.forward, model, batch), only_start=chain.uniform)
        self._chained = self._mine.intact and self._theirs.intact
        self._order = list(self._theirs.blocks)
        self._at = 0  # the teacher's block whose inputs are stored

    @property
    def chained(self) -> bool:
        """Whether blocks run on their own: `run_block` and `goal` need that."""
        return self._chained

    def run_block(self, pair: Pair, number: int) -> Tensor:
        """The hidden states that the model's block gives for a batch, with a gradient where that is on."""
        found: Tensor = self._mine.run(list(self._mine.blocks).index(pair.student), number)
        return found

    def goal(self, pair: Pair, number: int) -> Tensor:
        """The hidden states that the teacher has where the model's block ends."""
        self._reach(pair.target)
        found: Tensor = self._theirs.run(self._at, number)
        return found

    def gather(self, pair: Pair | None, fits: list[Fit]) -> None:
        """Run both models and add up what the layers of one block see and give."""
        for number, (batch, real) in enumerate(self._batches):
            with _calls({fit.name: fit.teacher for fit in fits}, lambda args, output: output) as outputs:
                self._run_teacher(pair, number, batch)
            with _calls({fit.name: fit.layer for fit in fits}, lambda args, output: args[0]) as inputs:
                self._run_model(pair, number, batch)
            for fit in fits:
                fit.add(inputs.get(fit.name, []), outputs.get(fit.name, []), real)

    def leave(self, pair: Pair | None) -> None:
        """The next blocks see what this one gives as it is now."""
        if pair is not None and self._chained:
            self._mine.advance(list(self._mine.blocks).index(pair.student))

    def _run_teacher(self, pair: Pair | None, number: int, batch: Any) -> None:
        if pair is None or not self._chained:
            self._session.forward(self._session.teacher, batch)
            return
        self._reach(pair.teacher)
        self._theirs.run(self._at, number)

    def _run_model(self, pair: Pair | None, number: int, batch: Any) -> None:
        if pair is None or not self._chained:
            self._session.forward(self._session.model, batch)
            return
        self.run_block(pair, number)

    def _reach(self, block: str) -> None:
        """Run the teacher up to this block."""
        while self._order[self._at] != block:
            self._theirs.advance(self._at)
            self._at += 1


@contextmanager
def _calls(
    modules: Mapping[str, nn.Module], of: Callable[[Any, Any], Any]
) -> Iterator[dict[str, list[Tensor]]]:
    """Name -> what `of(args, output)` gives at every call of the module while the block runs."""
    seen: dict[str, list[Tensor]] = {}

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen.setdefault(name, []).append(of(args or tuple(kwargs.values()), output))

        return hook

    handles = [m.register_forward_hook(hook_of(name), with_kwargs=True) for name, m in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
