"""The prototypes in csrc/bindings/torch_shim.h are those of the installed torch's headers."""

import os
import shutil
import subprocess
from pathlib import Path

import torch

CSRC = Path(__file__).resolve().parents[2] / "csrc"


def check(include: Path, *options: str) -> subprocess.CompletedProcess[str]:
    compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
    source = CSRC / "bindings/torch_prototypes_check.cpp"
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{include}", f"-I{CSRC}", *options, str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prototypes() -> None:
    include = Path(torch.__file__).parent / "include"
    done = check(include)
    assert done.returncode == 0, done.stderr
    # Headers narrowed to 2.10: every function used existed then.
    narrowed = check(include, "-DTORCH_TARGET_VERSION=0x020a000000000000")
    assert narrowed.returncode == 0, narrowed.stderr


def test_a_changed_prototype_is_noticed(tmp_path: Path) -> None:
    include = tmp_path / "include"
    for name in ("torch/csrc/stable", "torch/csrc/inductor/aoti_torch/c", "torch/headeronly"):
        shutil.copytree(Path(torch.__file__).parent / "include" / name, include / name)
    shim = include / "torch/csrc/stable/c/shim.h"
    text = shim.read_text()
    changed = text.replace("torch_get_num_threads(uint32_t*", "torch_get_num_threads(uint64_t*")
    assert changed != text
    shim.write_text(changed)
    assert "torch_get_num_threads: prototype differs" in check(include).stderr
