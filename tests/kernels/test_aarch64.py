"""The neon kernels, compiled by a cross compiler and run under qemu-user.

Debian: apt install g++-aarch64-linux-gnu qemu-user-static; then PRUNUS_TEST_AARCH64=1 pytest tests/kernels.
It compiles the core for another machine, which takes minutes, so it is asked for by name.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
SOURCES = (
    *("core/*.cpp", "formats/*.cpp", "ops/*.cpp", "ops/*/*.cpp"),
    *("kernels/dispatch.cpp", "kernels/isa_scalar.cpp"),
)

pytestmark = pytest.mark.skipif(
    os.environ.get("PRUNUS_TEST_AARCH64") != "1", reason="minutes of compiling: set PRUNUS_TEST_AARCH64=1"
)


def test_neon_kernels_equal_the_naive_product(tmp_path):
    for tool in (COMPILER, EMULATOR):
        assert shutil.which(tool), f"{tool} is not installed"
    csrc = ROOT / "csrc"
    files = [str(f) for pattern in SOURCES for f in sorted(csrc.glob(pattern))]
    files += [str(csrc / "kernels" / "isa_neon.cpp"), str(Path(__file__).with_name("kernel_check.cpp"))]
    program = tmp_path / "kernel_check"
    flags = [
        "-std=c++17",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-fopenmp",
        "-static",
    ]
    subprocess.run([COMPILER, *flags, "-I", str(csrc), *files, "-o", str(program)], check=True)
    done = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "neon: " in done.stdout
