"""Joining torch: import order, one OpenMP runtime, no torch at all, a torch that is too old."""

import subprocess
import sys
from pathlib import Path

LINEAR = """
w = torch.eye(300, 700)
x = torch.ones(64, 700)
assert torch.equal(prunus.linear(x, prunus.pack(w)), torch.nn.functional.linear(x, w))
assert prunus._core.parallel_backend() == "torch"
"""
ONE_OPENMP = """
import re
names = set(re.findall(r"/\\S*/lib(?:gomp|iomp5|omp)[^/\\s]*\\.so\\S*", open("/proc/self/maps").read()))
assert len(names) == 1, names
"""


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:prunus", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_torch_imported_first() -> None:
    registered = "assert torch.ops.prunus.linear.default\nimport importlib; importlib.reload(prunus.ops)"
    run("import torch, prunus.ops\n" + registered + LINEAR + ONE_OPENMP)


def test_torch_imported_after_numpy_was_used() -> None:
    run(
        "import numpy as np, prunus\n"
        "prunus.linear(np.ones((64, 9), np.float32), prunus.pack(np.ones((9, 9))))\n"
        "assert prunus._core.parallel_backend() == 'openmp'\n"
        "import torch" + LINEAR + ONE_OPENMP
    )


def test_import_does_not_import_torch() -> None:
    run(
        "import sys, prunus, prunus.ops, numpy as np;"
        "prunus.linear(np.ones((2, 3), np.float32), prunus.pack(np.ones((4, 3))));"
        "assert 'torch' not in sys.modules"
    )


def test_without_torch() -> None:
    run(
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np, prunus, prunus.ops\n"
        "p, bias = prunus.pack(np.ones((4, 3))), np.ones(4, np.float32)\n"
        "assert (prunus.linear(np.ones((2, 3), np.float32), p, bias) == 4).all()\n"
        "try: prunus.linear([1.0], p)\n"
        "except TypeError as e: assert 'got list' in str(e)\n"
        "else: raise AssertionError"
    )


def test_torch_that_is_not_loaded() -> None:
    run(
        "from prunus import _core\n"
        "try: _core.join_torch('9.9.0')\n"
        "except ImportError as e: assert str(e) == "
        "'torch 9.9.0: expected libtorch_cpu.so in this process, got none', e\n"
        "else: raise AssertionError\n"
        "assert _core.parallel_backend() == 'openmp'"
    )


def test_torch_that_lacks_a_symbol(tmp_path: Path) -> None:
    """A library of the right name with the first functions only, as an old torch would have."""
    source, library = tmp_path / "old.c", tmp_path / "libtorch_cpu.so"
    source.write_text("int aoti_torch_get_dim; int aoti_torch_get_sizes; int aoti_torch_get_strides;")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wl,-soname,libtorch_cpu.so", str(source), "-o", str(library)], check=True
    )
    run(
        f"import ctypes; ctypes.CDLL({str(library)!r})\n"
        "from prunus import _core\n"
        "try: _core.join_torch('2.9.1')\n"
        "except ImportError as e: assert str(e) == "
        "'torch 2.9.1: expected the symbol aoti_torch_get_dtype (torch >= 2.10), got none', e\n"
        "else: raise AssertionError\n"
        "assert _core.parallel_backend() == 'openmp'"
    )
