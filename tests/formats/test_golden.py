"""Files that an earlier build wrote (`golden/write.py`): today's code reads them, with the same answers."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors import safe_open

import prunus
from prunus.packed import DTYPES, FLOAT_FORMATS

GOLDEN = Path(__file__).parent / "golden"
TOKENS = [1, 2, 5, 8, 9, 64, 67]
# Pairs of format and dtype that packing would lay out otherwise today: reading them must go on working, and
# a pair comes here only together with a decision (csrc/decisions) that says why.
LAID_OUT_OTHERWISE: set[tuple[str, str]] = set()


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """golden/write.py, which knows the architectures of the checkpoints."""
    spec = importlib.util.spec_from_file_location("golden_write", GOLDEN / "write.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden(format: str, dtype: str, shape: str) -> tuple[np.ndarray, ...]:
    """packed (uint8) and dense (n, k), x (tokens, k), bias (n,), y (tokens, n) in float32."""
    with np.load(GOLDEN / f"{format}-{dtype}.npz") as file:
        packed = file[f"{shape}_packed"]
        rest = [file[f"{shape}_{key}"].astype(np.float32) for key in ("dense", "x", "bias", "y")]
    return packed, *rest


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_packed_weights_are_read_by_every_isa(isa, format, dtype, shape):
    buffer, dense, x, bias, y = golden(format, dtype, shape)
    p = prunus.PackedWeight.from_buffer(buffer)
    assert (p.format, p.dtype, p.shape, p.nnz) == (format, dtype, dense.shape, np.count_nonzero(dense))
    np.testing.assert_array_equal(p.to_dense(), dense)
    for m in TOKENS:
        token = np.arange(m) % len(x)
        np.testing.assert_array_equal(prunus.linear(x[token], p, bias), y[token])
        np.testing.assert_array_equal(prunus.linear(x[token], p, bias, "relu"), np.maximum(y[token], 0))


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FLOAT_FORMATS)
def test_packing_again_gives_the_same_bytes(isa, format, dtype, shape):
    buffer, dense, *_ = golden(format, dtype, shape)
    again = prunus.pack(dense, dtype=dtype, format=format).buffer
    assert np.array_equal(again, buffer) == ((format, dtype) not in LAID_OUT_OTHERWISE)


@pytest.mark.parametrize("rows", [1, 4, 16, 32])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_dot_weights_are_read_by_every_isa_and_packed_alike(dot_isa, dtype, rows):
    buffer, dense, x, bias, y = golden("dot", dtype, str(rows))
    p = prunus.PackedWeight.from_buffer(buffer)
    assert (p.format, p.dtype, p.shape, p.nnz) == ("dot", dtype, dense.shape, np.count_nonzero(dense))
    np.testing.assert_array_equal(p.to_dense(), dense)
    for m in TOKENS:
        token = np.arange(m) % len(x)
        np.testing.assert_array_equal(prunus.linear(x[token], p, bias), y[token])
    again = prunus.pack(dense, dtype=dtype, format="dot", rows=rows).buffer
    np.testing.assert_array_equal(tiles_of(again), tiles_of(buffer))


def tiles_of(buffer):
    """Behind the preamble: in these files tiles do not begin on cache lines, as they do now."""
    first = int(np.frombuffer(buffer[64:72].tobytes(), np.uint64)[0])
    return buffer[64 + first :]


@pytest.mark.parametrize("rows", [1, 4, 16, 32])
def test_dot_weights_lie_on_cache_lines(rows):
    for n in (33, 64, 200):
        packed = prunus.pack(np.ones((n, 70), np.float32), dtype="int8", format="dot", rows=rows)
        first = len(packed.buffer) - len(tiles_of(packed.buffer))
        assert (packed.buffer.ctypes.data % 64, first % 64) == (0, 0)


@pytest.mark.parametrize("shape", ["wide", "tall"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_for_cuda_are_read_and_packed_alike(dtype, shape):
    """Their products with the kernels: tests/cuda/test_linear.py."""
    with np.load(GOLDEN / f"warp-{dtype}.npz") as file:
        buffer, dense = file[f"{shape}_packed"], file[f"{shape}_dense"].astype(np.float32)
    p = prunus.PackedWeight.from_buffer(buffer)
    assert (p.format, p.dtype, p.shape, p.nnz) == ("warp", dtype, dense.shape, np.count_nonzero(dense))
    np.testing.assert_array_equal(p.to_dense(), dense)
    assert np.array_equal(prunus.pack(dense, dtype=dtype, format="warp").buffer, buffer)


@pytest.mark.parametrize("dtype", DTYPES)
def test_checkpoints_of_every_value_type(isa, writer, dtype):
    import torch

    with np.load(GOLDEN / "checkpoints.npz") as file:
        x, y = torch.from_numpy(file["x"]), file["y"]
    model = prunus.load(writer.Layers(), GOLDEN / f"{dtype}.safetensors").eval()
    sparse = {name for name, m in model.named_children() if isinstance(m, prunus.SparseLinear)}
    assert sparse == {*FLOAT_FORMATS}
    assert {getattr(model, name).packed_weight.dtype for name in FLOAT_FORMATS} == {dtype}
    assert model.nm.activation == "relu"
    assert model.tied.weight is model.dense.weight
    assert model.steps == 7
    np.testing.assert_array_equal(writer.output(model, x), y)
    expected = writer.layers(dtype)
    for name in FLOAT_FORMATS:
        mine, theirs = getattr(model, name), getattr(expected, name)
        np.testing.assert_array_equal(mine.packed_weight.to_dense(), theirs.packed_weight.to_dense())
        assert torch.equal(mine.bias, theirs.bias)
    assert torch.equal(model.dense.weight, expected.dense.weight)


def test_a_checkpoint_of_a_shrunk_and_fused_encoder(isa, writer):
    import torch

    with np.load(GOLDEN / "checkpoints.npz") as file:
        ids, hidden = torch.from_numpy(file["ids"]), file["hidden"]
    model = prunus.load(writer.encoder(), GOLDEN / "encoder.safetensors").eval()
    assert sum(isinstance(module, prunus.SparseLinear) for module in model.modules()) == 13
    assert model.encoder.layer[0].intermediate.dense.out_features == 16  # of 32
    # Floats here, whose sums may come in another order.
    np.testing.assert_allclose(writer.output(model, ids), hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*DTYPES, "encoder"])
def test_saving_again_gives_the_same_file(writer, tmp_path, name):
    fresh = writer.encoder() if name == "encoder" else writer.Layers()
    prunus.save(prunus.load(fresh, GOLDEN / f"{name}.safetensors"), tmp_path / "again.safetensors")
    tensors, about = contents(tmp_path / "again.safetensors")
    golden_tensors, golden_about = contents(GOLDEN / f"{name}.safetensors")
    assert tensors == golden_tensors
    assert {key: about[key] for key in golden_about} == golden_about  # a later version may add keys


def contents(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Tensor name -> (dtype, shape, values), and the metadata object."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["prunus"])
    return {key: (t.dtype, tuple(t.shape), t.float().tolist()) for key, t in tensors.items()}, about


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in GOLDEN.iterdir() if path.is_file()) < 300_000
