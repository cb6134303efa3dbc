"""Fair timing: contenders take turns, so that a slow phase of the machine hits all of them.

A call that works on a GPU returns before its work is done: clocks are read when the device has finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from prunus._tools.progress import progress

if TYPE_CHECKING:
    import torch

__all__ = ["Racer", "Times", "laps", "rounds", "settling", "take_laps", "take_turns"]


def settling(device: torch.device | None) -> Callable[[], object]:
    """What waits until a device has done all that it was given; nothing on the CPU, whose calls wait
    themselves.

    >>> settling(None)() is None
    True
    """
    if device is None or device.type != "cuda":
        return _nothing
    import torch

    return partial(torch.cuda.synchronize, device)


def _nothing() -> None:
    """The CPU is never behind."""


@dataclass
class Times:
    """Seconds of repeated runs of one contender; settle: see `settling`."""

    seconds: list[float] = field(default_factory=list)
    settle: Callable[[], object] = _nothing

    def add(self, call: Callable[[], object]) -> None:
        """Run once and note the time."""
        self.settle()
        start = time.perf_counter()
        call()
        self.settle()
        self.seconds.append(time.perf_counter() - start)

    @property
    def ms(self) -> float:
        """Median in milliseconds."""
        return median(self.seconds) * 1e3

    @property
    def best_ms(self) -> float:
        """The fastest run in milliseconds: what others on the machine took cannot make it shorter."""
        return min(self.seconds) * 1e3

    @property
    def spread_ms(self) -> float:
        """Median distance from the median, in milliseconds."""
        middle = median(self.seconds)
        return median(abs(s - middle) for s in self.seconds) * 1e3


def rounds(seconds: float, at_least: int = 5, at_most: int = 50) -> Iterator[int]:
    """Round numbers until the time is used up, but never fewer than `at_least`."""
    start = time.perf_counter()
    for i in range(at_most):
        if i >= at_least and time.perf_counter() - start > seconds:
            return
        yield i


def laps(contenders: int, rounds: Iterable[int]) -> Iterator[int]:
    """Who runs next: all in every round, and every second round backwards, so that nobody always finds the
    caches that the same neighbour left.

    >>> list(laps(2, range(3)))
    [0, 1, 1, 0, 0, 1]
    """
    for i in rounds:
        yield from range(contenders) if i % 2 == 0 else reversed(range(contenders))


def take_turns(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    at_least: int = 5,
    at_most: int = 50,
    label: str = "measuring",
    warm: float = 0.0,
    devices: Sequence[torch.device | None] = (),
) -> list[Times]:
    """Time each call in turn (`laps`) after one round that does not count; `label` is for the bar. warm:
    seconds of calls that do not count before each that does (0: none); threads that wait for more work of the
    one before go to sleep meanwhile, and the caches are filled. devices: that the calls work on, where one of
    them is no CPU.

    >>> [len(t.seconds) for t in take_turns([int, str], seconds=0.0, at_least=3)]
    [3, 3]
    """
    for call in calls:
        call()
    times = [Times(settle=settling(device)) for device in devices or [None] * len(calls)]
    for j in laps(len(calls), progress(rounds(seconds, at_least, at_most), label, at_most)):
        start = time.perf_counter()
        while time.perf_counter() - start < warm:
            calls[j]()
        times[j].add(calls[j])
    return times


class Racer:
    """Contenders for one place in a model, each a list of calls; counts: how often the model makes each call.

    around: what is entered while they run.
    """

    def __init__(
        self,
        contenders: Sequence[Sequence[Callable[[], object]]],
        counts: Sequence[int],
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.contenders, self.counts, self.around = contenders, counts, around
        self.times = [[Times() for _ in calls] for calls in contenders]

    def lap(self, which: int) -> None:
        """Every call of one contender once; nothing where there is no such contender."""
        if which < len(self.contenders):
            with self.around():
                for times, call in zip(self.times[which], self.contenders[which], strict=True):
                    times.add(call)

    def best_ms(self, which: int) -> float:
        """Milliseconds of one contender over all that the model calls, each call at its fastest."""
        return sum(times.best_ms * count for times, count in zip(self.times[which], self.counts, strict=True))

    def ms(self, which: int) -> float:
        """Milliseconds of one contender over all that the model calls, medians."""
        return sum(times.ms * count for times, count in zip(self.times[which], self.counts, strict=True))


def take_laps(racers: Sequence[Racer], seconds: float, at_least: int, at_most: int, label: str) -> None:
    """Whole passes over all racers in order, one contender of each after the other, as many as `rounds` says.

    As in the model, a layer finds in the caches what the layers before it left there, not its own weight from
    a moment ago.
    """
    most = max((len(racer.contenders) for racer in racers), default=0)
    for which in laps(most, progress(rounds(seconds, at_least, at_most), label, at_most)):
        for racer in racers:
            racer.lap(which)
