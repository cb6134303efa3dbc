"""The machine's own limits, measured in the same run: bench/machine.cpp compiled here."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.environment import cache_bytes
from bench.memory import SHARE, free_bytes

SOURCE = Path(__file__).with_name("machine.cpp")


def measure(threads: tuple[int, ...], megabytes: int | None = None) -> list[dict[str, Any]]:
    """One record per thread count: gflops (fp32 FMA peak), read_gbs and copy_gbs (memory).

    megabytes: of the array that is read, 8x the last cache by default, less where there is no room for it and
    its copy. Empty when there is no compiler: the suites run without it.
    """
    wanted, room = max(256, 8 * cache_bytes(3) >> 20), int(SHARE * free_bytes() / 2) >> 20
    megabytes = megabytes or max(1, min(wanted, room))
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "machine")
        compiler = os.environ.get("CXX", "c++")
        try:
            subprocess.run(
                [compiler, "-O3", "-march=native", "-std=c++17", "-pthread", str(SOURCE), "-o", program],
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return []
        found = []
        for count in threads:
            run = subprocess.run(
                [program, str(count), str(megabytes)], check=True, capture_output=True, text=True
            )
            found.append({"record": "roofline", "megabytes": megabytes, **json.loads(run.stdout)})
        return found


def best(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per thread count the larger of every rate."""
    rates = ("gflops", "read_gbs", "copy_gbs")
    return [
        {**a, **{rate: max(a[rate], b[rate]) for rate in rates}} for a, b in zip(first, second, strict=True)
    ]
