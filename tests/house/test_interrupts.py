"""Ctrl-C, once: the second waits until what is being put back is back."""

import os
import signal
import threading

import pytest

from prunus._tools.interrupts import OneInterrupt


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_interrupts_and_the_second_waits() -> None:
    seen = []

    def block() -> None:
        with OneInterrupt():
            try:
                interrupt()
                seen.append("not reached")
            except KeyboardInterrupt:
                interrupt()
                seen.append("finished")
                raise

    with pytest.raises(KeyboardInterrupt):
        block()
    assert seen == ["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_hold_the_block_is_finished_first() -> None:
    seen = []

    def block() -> None:
        with OneInterrupt() as once:
            once.hold()
            interrupt()
            seen.append("finished")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert seen == ["finished"]


def test_other_threads_and_quiet_blocks_change_nothing() -> None:
    def elsewhere() -> None:
        with OneInterrupt() as once:
            once.hold()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    with OneInterrupt():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
