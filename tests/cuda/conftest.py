"""The kernels of csrc/cuda, compiled for the host (host/cuda_on_host.h), and a GPU, real or pretended."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from places import Place
from pretended_gpu import PretendedGpu
from torch import Tensor

import prunus
from prunus import PackedWeight, _core
from prunus.masks import on_device
from prunus.ops.autograd import FUNCTIONS
from prunus.ops.registered import gated_op, linear_add_op, linear_op

ROOT = Path(__file__).resolve().parents[2]
HOST = Path(__file__).parent / "host"
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-DPRUNUS_CUDA_ON_HOST"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


def compile_for_host(folder: Path) -> Path:
    compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
    launcher = [found] if (found := shutil.which("ccache")) else []

    def compile_one(source: Path) -> Path:
        made = folder / (source.stem + ".o")
        command = [*launcher, compiler, *FLAGS, f"-I{ROOT / 'csrc'}", f"-I{HOST}", "-x", "c++", "-c"]
        subprocess.run([*command, str(source), "-o", str(made)], check=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, SOURCES))
    library = folder / "libprunus_cuda_on_host.so"
    subprocess.run([compiler, "-shared", *map(str, objects), "-o", str(library)], check=True)
    return library


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of kernels on the host, open: they take the memory of CPU tensors for a device's."""
    if torch.cuda.is_available():
        pytest.skip("the library for the device is open here")
    library = compile_for_host(tmp_path_factory.mktemp("cuda_on_host"))
    _core.cuda_open(str(library))
    return library


def naive(x: Tensor, packed: Tensor, bias: Any, out_features: int, activation: int) -> Tensor:
    """The operator `linear` on a pretended GPU."""
    weight = PackedWeight(packed.numpy())
    assert weight.format == "warp"
    y = torch.nn.functional.linear(x.float(), torch.from_numpy(weight.to_dense()))
    y = y if bias is None else y + bias.float()
    return (FUNCTIONS[activation](y) if activation else y).to(x.dtype)


def naive_add(x: Tensor, packed: Tensor, bias: Any, residual: Tensor, n: int, activation: int) -> Tensor:
    return naive(x, packed, bias, n, activation) + residual


def naive_gated(
    x: Tensor, gate: Tensor, up: Tensor, gate_bias: Any, up_bias: Any, n: int, activation: int
) -> Tensor:
    return naive(x, gate, gate_bias, n, activation) * naive(x, up, up_bias, n, 0)


HAS_GPU = torch.cuda.is_available()
PRETENDED = pytest.param("pretended", marks=pytest.mark.skipif(HAS_GPU, reason="there is a real one"))
REAL = pytest.param("real", marks=pytest.mark.skipif(not HAS_GPU, reason="needs a GPU"))


@pytest.fixture(params=[PRETENDED, REAL])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The word to move models and inputs with: "cuda" to the real GPU, "cuda:0" to the pretended one."""
    if request.param == "real":
        torch.backends.cuda.matmul.allow_tf32 = False
        yield "cuda"
        return
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    with PretendedGpu({linear_op: naive, linear_add_op: naive_add, gated_op: naive_gated}):
        yield "cuda:0"


@pytest.fixture(scope="module", params=["host", pytest.param("gpu", marks=REAL.marks)])
def place(request: pytest.FixtureRequest) -> Place:
    """Where the pruning backend is tested: on the host's model of the kernels, and on a GPU."""
    if request.param == "gpu":
        return Place("cuda", prunus)
    request.getfixturevalue("host_library")
    return Place("cpu", on_device)
