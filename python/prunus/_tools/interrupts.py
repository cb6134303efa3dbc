"""Ctrl-C: what has to be finished is not interrupted a second time; and the stack of its handler."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["OneInterrupt", "SignalStack", "own_signal_stack"]


class SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2): where the handlers of signals of this thread run."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    @classmethod
    def exchange(cls, new: SignalStack | None = None) -> SignalStack | None:
        """The one of now, whose place `new` takes; None where the system has none.

        >>> type(SignalStack.exchange()).__name__
        'SignalStack'
        """
        change = getattr(ctypes.CDLL(None), "sigaltstack", None)
        if change is None:
            return None
        old = cls()
        change(None if new is None else ctypes.byref(new), ctypes.byref(old))
        return old


@contextmanager
def own_signal_stack() -> Iterator[None]:
    """Put the thread's stack for signals back after the block.

    OpenVINO, compiling a model where there is AMX, gives the thread one of its own and frees it later: the
    next Ctrl-C would end the process.

    >>> with own_signal_stack():
    ...     pass
    """
    before = SignalStack.exchange()
    try:
        yield
    finally:
        now = SignalStack.exchange()
        if before is not None and now is not None and now.sp != before.sp:
            SignalStack.exchange(before)


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
