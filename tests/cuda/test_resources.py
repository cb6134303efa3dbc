"""What the compiler of CUDA says of the kernels, where it is installed: no warnings, nothing spilled."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

NVCC = shutil.which("nvcc")
ROOT = Path(__file__).resolve().parents[2]
# What a block may have on the smallest of these devices, without asking for more.
SHARED = 48 << 10


def flags() -> list[str]:
    """Of CMakeLists.txt, so that this is what is built."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = re.search(r"target_compile_options\(prunus_cuda PRIVATE ([^)]*)\)", text)
    assert found
    return found[1].split()


def said(source: Path, folder: Path) -> str:
    target = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (80, 90)]
    include, version = f"-I{ROOT / 'csrc'}", '-DPRUNUS_CUDA_ARCHITECTURES="80 90"'
    command = [str(NVCC), "-std=c++17", "-O3", *flags(), *target, "-Xptxas=-v", "-Xcompiler=-fPIC", include]
    made = subprocess.run(
        [*command, version, "-c", str(source), "-o", str(folder / f"{source.stem}.o")],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    return made.stderr


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_kernels_compile_without_warnings_and_spill_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for source, text in zip(
            sources := sorted((ROOT / "csrc/cuda").glob("*.cu")),
            pool.map(lambda source: said(source, tmp_path), sources),
            strict=True,
        ):
            for bytes_ in re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", text):
                assert bytes_ == "0", (source.name, text)
            assert all(int(r) <= 128 for r in re.findall(r"Used (\d+) registers", text)), source.name
            assert all(int(s) <= SHARED for s in re.findall(r"(\d+) bytes smem", text)), source.name
