"""The process that measures, and what a reader must know about it. Nothing here imports numpy at the top."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Each of these was seen to slow a dense peer or to split the threads. OPENBLAS_CORETYPE picks a kernel for
# another CPU, and OPENBLAS_L2_SIZE goes with it: both or neither.
UNSET = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
PACKAGES = ("prunus", "torch", "numpy", "scipy", "onnxruntime", "openvino")


def clean_environment() -> list[str]:
    """Restart this process without the variables of UNSET; the names that were set, for the record.

    They are read when the libraries are loaded, so they must go before the first import of numpy.
    """
    found = [name for name in UNSET if name in os.environ]
    if found:
        for name in found:
            del os.environ[name]
        os.environ["PRUNUS_BENCH_UNSET"] = ",".join(found)
        os.execv(sys.executable, [sys.executable, "-m", "bench", *sys.argv[1:]])
    return [name for name in os.environ.get("PRUNUS_BENCH_UNSET", "").split(",") if name]


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def cache_bytes(level: int) -> int:
    """Size of cache `level` of cpu 0 in bytes; 32 MiB where the system does not tell."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "level").read_text().strip() == str(level) and "Inst" not in (index / "type").read_text():
            text = (index / "size").read_text().strip()
            return int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]] if text[-1] in "KM" else int(text)
    return 32 << 20


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    found |= {name: installed[name] for name in PACKAGES if name in installed}
    from bench.peers.elsewhere import deepsparse_version

    elsewhere = deepsparse_version()
    return found | ({"deepsparse": elsewhere} if elsewhere else {})


def commit() -> str:
    """Short hash of HEAD, with "+changes" when the tree differs from it; "unknown" outside a repository."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if dirty else "")


def blas_kernels() -> list[str]:
    """Which kernels the loaded BLAS libraries chose, e.g. "openblas 0.3.30 Zen"."""
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2), np.float32) @ np.ones((2, 2), np.float32)
    return sorted(
        {
            f"{p['internal_api']} {p['version']} {p.get('architecture', '')}".strip()
            for p in threadpool_info()
            if p["user_api"] == "blas"
        }
    )


def describe(unset: list[str]) -> dict[str, Any]:
    """The first record of every result file."""
    from bench.memory import free_bytes
    from prunus import _core

    return {
        "record": "run",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "l2": cache_bytes(2),
        "l3": cache_bytes(3),
        "memory": free_bytes(),
        "system": platform.platform(),
        "isa": _core.active_isa(),
        "isas": list(_core.available_isas()),
        "compiler": _core.compiler(),
        "blas": blas_kernels(),
        "versions": versions(),
        "commit": commit(),
        "unset": unset,
        "load": os.getloadavg()[0],
    }
