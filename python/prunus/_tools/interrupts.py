"""Ctrl-C, once: what has to be finished or put back is not interrupted a second time."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["OneInterrupt"]


class OneInterrupt:
    """The first Ctrl-C interrupts the block; those after it, and after `hold`, wait until it has been left.

    Only the main thread gets signals: elsewhere, and where Ctrl-C has no Python handler, it does nothing.

    >>> with OneInterrupt() as interrupt:
    ...     interrupt.hold()  # from here on the block is finished whatever comes
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._held = False
        self._waiting: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> OneInterrupt:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._handle)
        return self

    def hold(self) -> None:
        """From now on even the first Ctrl-C waits."""
        self._held = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._waiting = (number, frame)
        else:
            self._held = True
            self._before(number, frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is None:
            return
        signal.signal(signal.SIGINT, self._before)
        # A block that ends with a KeyboardInterrupt has told of all of them.
        if self._waiting is not None and not isinstance(error, KeyboardInterrupt):
            self._before(*self._waiting)
