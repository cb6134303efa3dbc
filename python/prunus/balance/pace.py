"""Spreading a number of seconds evenly over things that come one after another."""

from __future__ import annotations

import time

__all__ = ["Pace"]


class Pace:
    """Which of `count` things, by name, may take their time so that all together take about `seconds`.

    >>> pace = Pace(60.0, 2)
    >>> pace.allows("first"), pace.allows("second")
    (True, True)
    """

    def __init__(self, seconds: float, count: int) -> None:
        self.seconds, self.count = seconds, max(count, 1)
        self.spent = 0.0
        self._names: set[str] = set()
        self._begun: float | None = None

    def allows(self, name: str) -> bool:
        """Whether those so far took less than their share; from now on the clock runs, until `done`."""
        self._names.add(name)
        allowed = self.spent <= self.seconds * (len(self._names) - 1) / self.count
        self._begun = time.perf_counter() if allowed else None
        return allowed

    def done(self) -> None:
        """What was allowed has ended."""
        if self._begun is not None:
            self.spent += time.perf_counter() - self._begun
        self._begun = None
