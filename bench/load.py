"""Who else used the processors while something was measured (Linux). Figures from a busy machine mislead."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal
HELPERS: set[int] = set()  # living children that compute for a peer: their time is ours


class LoadMeter:
    """Between its making and `foreign()`: processors that others kept busy, on average.

    0.0 = alone; 1.0 = one whole processor was somebody else's (another process, or the host's: steal).
    """

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.perf_counter(), busy_seconds(), own_seconds()

    def foreign(self) -> float:
        elapsed = time.perf_counter() - self.start
        others = (busy_seconds() - self.busy) - (own_seconds() - self.own)
        return round(max(0.0, others) / elapsed, 3) if elapsed > 0 else 0.0


def busy_seconds() -> float:
    """Of all processors since boot; 0.0 where the system does not tell."""
    try:
        fields = STAT.read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0.0
    return sum(int(fields[i]) for i in BUSY) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system + sum(map(seconds_of, HELPERS))


def seconds_of(pid: int) -> float:
    """Of a child that was not waited for; 0.0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
