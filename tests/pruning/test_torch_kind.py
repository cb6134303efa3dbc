"""torch in, torch out, no copy of the input."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from prunus import NM, Block, Unstructured, normalize, select
from prunus._tools.arrays import as_array

PATTERNS = [
    Unstructured(0.5),
    Unstructured(0.5, "row"),
    Unstructured(0.5, "column"),
    NM(2, 4),
    Block((2, 2), 0.5),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_share_memory(dtype):
    w = torch.ones(3, 4, dtype=dtype)
    view = as_array(w, "w")
    w.zero_()
    assert (view.array == 0).all()
    assert view.array.ctypes.data == w.data_ptr()
    assert view.dtype == str(dtype).removeprefix("torch.")
    assert as_array(w.t(), "w").array.shape == (4, 3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_same_mask_as_numpy(pattern, dtype, rng):
    scores = torch.from_numpy(rng.standard_normal((48, 64))).to(dtype)
    for view in (scores, scores.t(), scores[:, :20]):
        mask = select(view, pattern)
        assert mask.dtype == torch.bool
        assert mask.shape == view.shape
        np.testing.assert_array_equal(mask.numpy(), select(view.double().numpy(), pattern))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_normalize_gives_a_tensor(dtype, axis, rng):
    w = torch.from_numpy(rng.standard_normal((48, 64))).to(dtype)
    got = normalize(w, axis)
    assert got.dtype == dtype
    expected = torch.nn.functional.normalize(w.double(), dim=axis)
    torch.testing.assert_close(got.double(), expected, rtol=2.0 * torch.finfo(dtype).eps, atol=1e-12)
    assert normalize(w.t(), axis).shape == (64, 48)


def test_parameters_can_be_scored():
    layer = torch.nn.Linear(8, 4)
    assert select(layer.weight, Unstructured(0.25)).sum() == 24


def test_subnormals_count_where_torch_flushes_them():
    scores = torch.tensor([3e-45, 1e-45, 0.0, -1e-45], dtype=torch.float32)
    if not torch.set_flush_denormal(True):
        raise AssertionError("this test needs a CPU with flush-to-zero")
    try:
        mask = select(scores, Unstructured(0.5))
    finally:
        torch.set_flush_denormal(False)
    assert mask.tolist() == [True, True, False, False]


def test_numpy_users_do_not_load_torch():
    code = (
        "import sys, numpy as np, prunus\n"
        "w = np.arange(16, dtype=np.float32).reshape(4, 4)\n"
        "prunus.apply_mask_(w, prunus.select(prunus.normalize(w, 1), prunus.NM(2, 4)))\n"
        "assert (w == 0).sum() == 8 + 0 and 'torch' not in sys.modules, (w, 'torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
