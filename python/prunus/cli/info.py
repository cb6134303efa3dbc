"""`prunus info`: what this build can do on this machine, and what it found there."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import prunus
import prunus._core as _core
from prunus._tools.cuda import why_closed

__all__ = ["add_parser", "gather"]

OPENMP = re.compile(r"/lib[gi]?omp\d*(-[^/]*)?\.so[.\d]*$")


def add_parser(commands: Any) -> None:
    """Add the `info` command to the command line."""
    parser = commands.add_parser("info", help="version, instruction sets, kernels, threads, OpenMP runtimes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the facts, as a table or as JSON."""
    facts = gather()
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        shown = _grouped(value) if name == "kernels" else value
        table.add_row(Text(name.replace("_", " "), style="bold"), Text(_text(shown)))
    console = Console()
    console.print(table)
    if len(facts["openmp_runtimes"]) > 1:
        console.print(
            "[yellow]Two OpenMP runtimes in one process compete for the cores: expect slow or hanging runs."
        )
    return 0


def gather() -> dict[str, Any]:
    """Facts by name, plain values only. Loads torch where it is installed: its thread pool is then ours.

    Raises ValueError when PRUNUS_ISA names an instruction set that is unknown or not available.

    >>> gather()["prunus"] == prunus.__version__
    True
    """
    torch_version, cuda = None, "torch is not installed"
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("prunus.ops.torch_ops")
        torch_version = importlib.metadata.version("torch")
        cuda = why_closed() or _devices()
    return {
        "prunus": prunus.__version__,
        "compiler": _compiler(),
        "isa_detected": _core.available_isas(),
        "isa_active": _core.active_isa(),
        "isa_refused": _core.refused_isa() or None,
        "isa_forced": os.environ.get("PRUNUS_ISA"),
        "kernels": _core.kernels(),
        "threads": _core.num_threads(),
        "thread_pool": _core.parallel_backend(),
        "openmp_runtimes": openmp_runtimes(),
        "torch": torch_version,
        "cuda": cuda,
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
        "machine": f"{_cpu_name()}, {os.cpu_count()} cpus, {platform.system()} {platform.machine()}",
    }


def openmp_runtimes(maps: str | None = None) -> list[str]:
    """Paths of the OpenMP libraries loaded into this process (or into the one with these /proc/PID/maps).

    >>> openmp_runtimes("7f0-7f1 r-xp 00000000 08:01 42   /usr/lib/libgomp.so.1.0.0")
    ['/usr/lib/libgomp.so.1.0.0']
    """
    if maps is None:
        file = Path("/proc/self/maps")
        maps = file.read_text() if file.exists() else ""
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if OPENMP.search(path))


def _compiler() -> str:
    version: str = _core.compiler()
    return f"gcc {version}" if version[:1].isdigit() else version  # clang names itself


def _devices() -> str:
    """The GPUs, and what the library of CUDA kernels has code for."""
    info = _core.cuda_info() or {}
    names = [f"{d['name']} (sm_{''.join(map(str, d['capability']))})" for d in info["devices"]]
    return f"{', '.join(names)}; code for {info['architectures']}"


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return found[1] if found else platform.processor() or "unknown cpu"


def _grouped(kernels: list[str]) -> list[str]:
    """format_valuetype_tokens names as one phrase per format."""
    parts = [name.rsplit("_", 2) for name in kernels]
    phrases = []
    for form in dict.fromkeys(part[0] for part in parts):
        values = dict.fromkeys(part[1] for part in parts if part[0] == form)
        tokens = dict.fromkeys(part[2] for part in parts if part[0] == form)
        phrases.append(f"{form} ({' '.join(values)}; {' '.join(tokens)} tokens)")
    return phrases


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None else str(value)
