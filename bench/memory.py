"""How much memory one call needs beyond what it was given, from the kernel's high-water mark (Linux)."""

import ctypes
import gc
from pathlib import Path

from bench.timing import Call

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def status_bytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def peak_bytes(call: Call) -> int | None:
    """Largest resident size during `call` less that before it, result included; None where unknown."""
    gc.collect()
    try:
        # Memory that malloc kept from earlier calls would hide what this one uses.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        RESET.write_text("5")
        before = status_bytes("VmRSS")
        result = call()
        peak = status_bytes("VmHWM")
        del result
    except (OSError, StopIteration, AttributeError):
        return None
    return max(0, peak - before)
