"""Interleaved timing: every contender takes a short turn in every round, so noise hurts all alike."""

import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], object]


@dataclass(frozen=True)
class Turn:
    """In the place of a call that is timed where it runs, in another process. `which` is the number of the
    call there; run makes the calls of those numbers in a row, returns their seconds without the asking."""

    which: int
    run: Callable[[list[int]], float]


@dataclass(frozen=True)
class Budget:
    """How long to measure. Times in seconds."""

    rounds: int = 9
    turn: float = 0.03  # one sample is the mean over a turn
    warm: float = (
        0.003  # untimed start of every turn: refills caches, lets the previous peer's threads go to sleep
    )
    limit: float = 20.0  # a contender that has used this much stops once it has 3 samples
    slow: float = 0.1  # a call this long needs no warming up, and two samples will do


QUICK = Budget(rounds=5, turn=0.006, warm=0.002, limit=1.0)


@dataclass
class Samples:
    """Seconds per call, one entry per turn."""

    seconds: list[float] = field(default_factory=list)
    calls: int = 1

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def quartiles(self) -> tuple[float, float]:
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        q1, _, q3 = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return q1, q3

    def record(self) -> dict[str, float | int]:
        q1, q3 = self.quartiles()
        return {
            "median_us": self.median * 1e6,
            "min_us": min(self.seconds) * 1e6,
            "q1_us": q1 * 1e6,
            "q3_us": q3 * 1e6,
            "samples": len(self.seconds),
            "calls": self.calls,
        }


class Contender:
    """One thing to time. With several calls (copies of the weight) a turn walks through all of them."""

    def __init__(self, calls: Sequence[Call | Turn], budget: Budget) -> None:
        self.ring: Any = itertools.cycle(calls)
        self.remote = isinstance(calls[0], Turn)
        self.copies = len(calls)
        self.budget = budget
        self.samples = Samples()
        self.used = 0.0
        self.slow = False

    def run(self, calls: int) -> float:
        elapsed = self.theirs(calls) if self.remote else self.ours(calls)
        self.used += elapsed
        return elapsed

    def ours(self, calls: int) -> float:
        ring = self.ring
        start = time.perf_counter()
        for _ in range(calls):
            next(ring)()
        return time.perf_counter() - start

    def theirs(self, calls: int) -> float:
        turns: list[Turn] = [next(self.ring) for _ in range(calls)]
        return turns[0].run([turn.which for turn in turns])

    def calibrate(self) -> None:
        once = self.run(self.copies) / self.copies
        self.slow = once > self.budget.slow
        if self.slow:
            self.samples = Samples([once], self.copies)
            return
        once = max(self.run(self.copies) / self.copies, 1e-8)
        passes = max(1, round(self.budget.turn / once / self.copies))
        self.samples.calls = passes * self.copies

    def turn(self) -> None:
        warm = self.budget.warm if self.slow else 0.0
        while warm < self.budget.warm:
            warm += max(self.run(1), 1e-7)
        self.samples.seconds.append(self.run(self.samples.calls) / self.samples.calls)

    def done(self) -> bool:
        if self.slow and self.used > self.budget.limit / 20:
            return len(self.samples.seconds) >= 2
        return self.used > self.budget.limit and len(self.samples.seconds) >= 3


def interleave(contenders: Sequence[Sequence[Call | Turn]], budget: Budget) -> list[Samples]:
    """Time each contender (a list of equivalent calls) in `budget.rounds` rounds of shuffled turns."""
    field_ = [Contender(calls, budget) for calls in contenders]
    order = random.Random(0)
    gc.collect()
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for one in field_:
            one.calibrate()
        for _ in range(budget.rounds):
            for one in order.sample(field_, len(field_)):
                if not one.done():
                    one.turn()
    finally:
        if gc_was_on:
            gc.enable()
    return [one.samples for one in field_]
