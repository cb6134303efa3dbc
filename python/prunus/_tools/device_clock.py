"""Times of calls on a GPU: what the device takes for them, not what it takes to hand it the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["MOST_CALLS", "DeviceClock"]

# While calls are handed over the device waits for this long (3 ms at 1.7 GHz), so that it has all of them
# before it begins: short kernels would end before the next is launched, and every call would last as long as
# a launch. Of more calls at once (some take 0.1 ms of Python) it would begin too early.
WAIT_CYCLES, MOST_CALLS = 5_000_000, 16


class DeviceClock:
    """Clocks of one GPU: `time` within `together`, whose end reads them.

    Only the calls of one `together` are back to back on the device; MOST_CALLS is a good number of them.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._open: list[tuple[Any, Any, list[float]]] = []

    @contextmanager
    def together(self) -> Iterator[None]:
        """The device begins with the calls inside when all are there; what they took is known at the end."""
        with torch.cuda.device(self.device):
            torch.cuda.synchronize(self.device)
            torch.cuda._sleep(WAIT_CYCLES)  # type: ignore[no-untyped-call]
            try:
                yield
                torch.cuda.synchronize(self.device)
                for first, last, seconds in self._open:
                    seconds.append(first.elapsed_time(last) / 1e3)
            finally:
                self._open.clear()

    def time(self, call: Callable[[], object], seconds: list[float], issuing: list[float]) -> None:
        """Hand over one call. seconds: gets what the device takes for it; issuing: what handing over took."""
        event: Any = torch.cuda.Event
        first, last = event(enable_timing=True), event(enable_timing=True)
        first.record()
        start = time.perf_counter()
        call()
        issuing.append(time.perf_counter() - start)
        last.record()
        self._open.append((first, last, seconds))
