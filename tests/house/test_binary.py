"""What the compiled extension may link, and that the objects of one isa share no function with another."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from prunus import _core

ROOT = Path(__file__).resolve().parents[2]
CMAKE = (ROOT / "CMakeLists.txt").read_text()
# Compiled, not run: this CPU need not have them.
ON_ARM = platform.machine() in ("aarch64", "arm64")
X86 = ["scalar", "avx2", "avxvnni", "avx512", "avx512icl", "avx512bf16", "amx"]
ISAS = ["scalar", "neon"] if ON_ARM else X86
# -O1: sealed must not depend on what the optimiser happens to inline.
BASE_FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]


def isa_flags(isa: str) -> list[str]:
    """What CMakeLists.txt has in the variable PRUNUS_<ISA>, which may name another."""
    found = re.search(rf'set\(PRUNUS_{isa.upper()} "([^"]+)"\)', CMAKE)
    flags = []
    for flag in found[1].split(";") if found else []:
        inner = re.fullmatch(r"\$\{PRUNUS_(\w+)\}", flag)
        flags += isa_flags(inner[1]) if inner else [flag]
    return flags


def readelf(option: str) -> str:
    command = ["readelf", "-W", option, _core.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_extension_links_no_torch_and_one_openmp() -> None:
    needed = re.findall(r"NEEDED.*\[(.+)\]", readelf("-d"))
    assert needed
    assert not [lib for lib in needed if "torch" in lib or "c10" in lib]
    assert len([lib for lib in needed if "omp" in lib]) <= 1
    assert not [lib for lib in needed if "iomp" in lib]


def test_what_every_wheel_is_tried_with() -> None:
    """`[tool.cibuildwheel]` runs it where nothing but the dependencies is installed."""
    subprocess.run([sys.executable, ROOT / "tests/house/smoke.py"], check=True)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Path]]]:
    """The object of every isa, compiled side by side: one after the other they take four minutes."""
    folder = tmp_path_factory.mktemp("isas")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {isa: pool.submit(compiled, isa, folder / f"{isa}.o") for isa in ISAS}


def compiled(isa: str, target: Path) -> Path:
    source = ROOT / f"csrc/kernels/isa_{isa}.cpp"
    compiler = [os.environ.get("CXX", "c++"), *BASE_FLAGS, *isa_flags(isa), "-I", str(ROOT / "csrc")]
    subprocess.run([*compiler, "-c", str(source), "-o", str(target)], check=True)
    return target


@pytest.mark.parametrize("isa", ISAS)
def test_isa_object_is_sealed(isa: str, objects: dict[str, Future[Path]]) -> None:
    """A weak (shared inline) function in an avx2 object can replace the baseline's body: old CPUs crash."""
    target = objects[isa].result()
    lines = subprocess.run(["nm", "-C", str(target)], capture_output=True, text=True, check=True).stdout
    symbols = re.findall(r"^[0-9a-f ]{16} (\w) (.+)$", lines, re.MULTILINE)
    weak = [name for kind, name in symbols if kind in "WwVvu"]
    assert not weak, f"shared inline functions in isa_{isa}.o"
    exported = [name for kind, name in symbols if kind in "TDRB"]
    assert len(exported) <= 1, "one exported table per isa"
    initialisers = [name for _, name in symbols if name.startswith("_GLOBAL__sub_I")]
    assert not initialisers, "static initialisers run before the cpu check"
