"""Fair timing: contenders take turns, so that a slow phase of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from prunus._tools.progress import progress

__all__ = ["Times", "rounds", "take_turns"]


@dataclass
class Times:
    """Seconds of repeated runs of one contender."""

    seconds: list[float] = field(default_factory=list)

    def add(self, call: Callable[[], object]) -> None:
        """Run once and note the time."""
        start = time.perf_counter()
        call()
        self.seconds.append(time.perf_counter() - start)

    @property
    def ms(self) -> float:
        """Median in milliseconds."""
        return median(self.seconds) * 1e3

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


def take_turns(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    at_least: int = 5,
    at_most: int = 50,
    label: str = "measuring",
) -> list[Times]:
    """Time each call in turn, round by round, after one round that does not count; `label` is for the bar.

    Every second round runs backwards: nobody always finds the caches that the same neighbour left.

    >>> [len(t.seconds) for t in take_turns([int, str], seconds=0.0, at_least=3)]
    [3, 3]
    """
    for call in calls:
        call()
    times = [Times() for _ in calls]
    for i in progress(rounds(seconds, at_least, at_most), label, at_most):
        order = range(len(calls)) if i % 2 == 0 else range(len(calls) - 1, -1, -1)
        for j in order:
            times[j].add(calls[j])
    return times
