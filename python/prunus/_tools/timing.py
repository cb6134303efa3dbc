"""Fair timing: contenders take turns, so that a slow phase of the machine hits all of them.

A call that works on a GPU returns before its work is done: clocks are read when the device has finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Any

from prunus._tools.progress import progress

if TYPE_CHECKING:
    import torch

    from prunus._tools.device_clock import DeviceClock

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

    around: what is entered while they run. device: that all of them work on; on a GPU the times are its own
    (`DeviceClock`), and `issue_ms` what the CPU takes to hand over the calls.
    """

    def __init__(
        self,
        contenders: Sequence[Sequence[Callable[[], object]]],
        counts: Sequence[int],
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        device: torch.device | None = None,
    ) -> None:
        self.contenders, self.counts, self.around = contenders, counts, around
        self.device = device if device is not None and device.type == "cuda" else None
        self.times = [[Times() for _ in calls] for calls in contenders]
        self.issuing = [[Times() for _ in calls] for calls in contenders]

    def lap(self, which: int, clock: DeviceClock | None = None) -> None:
        """Every call of one contender once; nothing where there is no such contender."""
        if which >= len(self.contenders):
            return
        with self.around():
            for i, call in enumerate(self.contenders[which]):
                if clock is None:
                    self.times[which][i].add(call)
                else:
                    clock.time(call, self.times[which][i].seconds, self.issuing[which][i].seconds)

    def best_ms(self, which: int) -> float:
        """Milliseconds of one contender over all that the model calls, each call at its fastest."""
        return sum(times.best_ms * count for times, count in zip(self.times[which], self.counts, strict=True))

    def ms(self, which: int) -> float:
        """Milliseconds of one contender over all that the model calls, medians."""
        return sum(times.ms * count for times, count in zip(self.times[which], self.counts, strict=True))

    def issue_ms(self, which: int) -> float:
        """As `best_ms`, what the CPU takes to hand the calls to a GPU."""
        of = zip(self.issuing[which], self.counts, strict=True)
        return sum(times.best_ms * count for times, count in of)


def take_laps(racers: Sequence[Racer], seconds: float, at_least: int, at_most: int, label: str) -> None:
    """Whole passes over all racers in order, one contender of each after the other, as many as `rounds` says.

    As in the model, a layer finds in the caches what the layers before it left there, not its own weight from
    a moment ago.
    """
    most = max((len(racer.contenders) for racer in racers), default=0)
    groups = list(_groups(racers))
    for which in laps(most, progress(rounds(seconds, at_least, at_most), label, at_most)):
        for clock, some in groups:
            with nullcontext() if clock is None else clock.together():
                for racer in some:
                    racer.lap(which, clock)


def _groups(racers: Sequence[Racer]) -> Iterator[tuple[DeviceClock | None, list[Racer]]]:
    """Neighbours on one device, on a GPU as many as it can be given at once, and its clock."""
    for device, run in groupby(racers, key=lambda racer: racer.device):
        some = list(run)
        if device is None:
            yield None, some
            continue
        from prunus._tools.device_clock import MOST_CALLS, DeviceClock

        clock, size = DeviceClock(device), max(1, MOST_CALLS // max(len(racer.counts) for racer in some))
        yield from ((clock, some[i : i + size]) for i in range(0, len(some), size))
