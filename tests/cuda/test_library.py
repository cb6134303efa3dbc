"""Opening the library of CUDA kernels."""

from pathlib import Path

import pytest

from prunus import _core
from prunus._tools.cuda import is_cuda, open_library, why_closed


def test_the_kernels_run_on_the_host(host_library: Path) -> None:
    info = _core.cuda_info()
    assert info is not None
    assert info["error"] is None
    assert [device["name"] for device in info["devices"]] == ["host"]


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(b"no library")
    with pytest.raises(RuntimeError, match=r"prunus_cuda: .*lib\.so"):
        _core.cuda_open(str(path))


def test_a_library_without_the_table_is_refused() -> None:
    with pytest.raises(RuntimeError, match="expected the function prunus_cuda_api"):
        _core.cuda_open("libm.so.6")


def test_without_a_device_there_is_a_reason() -> None:
    if why_closed():
        with pytest.raises(RuntimeError, match="w: expected a tensor that prunus can compute with"):
            open_library("w")
    assert not is_cuda("a string")
