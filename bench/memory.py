"""How much memory is free, and how much one call needs beyond what it was given (Linux)."""

import ctypes
import gc
import resource
from collections.abc import Iterator
from pathlib import Path

from bench.timing import Call

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GROUPS, GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Tree of control groups -> where its limit and its use are.
FILES = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
SHARE = 0.5  # of what is free, for all that is held side by side: preparing takes its part too
UNKNOWN = 4 << 30  # free bytes where the system does not tell


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


def free_bytes() -> int:
    """What this process may still take: of the system, of its control groups, of its own limit."""
    return max(0, min((*_of_the_system(), *_of_the_groups(), *_of_the_process()), default=UNKNOWN))


def _of_the_system() -> Iterator[int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    yield from (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _of_the_groups() -> Iterator[int]:
    """The limits of its control group and of those above: version 1 has a tree for memory alone."""
    try:
        lines = [line.split(":", 2) for line in GROUP.read_text().splitlines()]
    except OSError:
        return
    for _, tree, name in lines:
        if tree in FILES:
            folder = GROUPS / tree / name.lstrip("/")
            for place in (folder, *folder.parents):
                if place.is_relative_to(GROUPS):
                    yield from _left(place, *FILES[tree])


def _left(folder: Path, limit: str, used: str) -> Iterator[int]:
    try:
        most = (folder / limit).read_text().strip()
        now = int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    # Pages of files that were read can go.
    if most != "max":
        yield int(most) - now + int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _of_the_process() -> Iterator[int]:
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY and STATUS.exists():
        yield most - status_bytes("VmSize")


class Room:
    """A share of the memory that was free, for so many contenders that are held side by side."""

    def __init__(self, contenders: int) -> None:
        gc.collect()
        self.free = free_bytes()
        self.waiting = contenders

    def left(self) -> int:
        """Bytes until all of them together have had their share."""
        return max(0, int(free_bytes() - (1.0 - SHARE) * self.free))

    def next(self) -> int:
        """Bytes for the next of them: what is left, in equal parts."""
        self.waiting -= 1
        return self.left() // (self.waiting + 1)
