"""prunus.linear on tensors against torch's dense layer. Whole-number floats: sums are exact in any order."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import prunus
from prunus.ops.torch_ops import buffer_tensor

ROWS = [0, 1, 2, 7, 8, 9, 63, 64, 65, 130]
SHAPES = [(1, 1), (7, 5), (33, 257), (131, 96)]


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).float()


def pruned(n: int, k: int, sparsity: float = 0.7) -> torch.Tensor:
    keep = torch.rand(n, k, generator=torch.Generator().manual_seed(1)) >= sparsity
    return integers(n, k, seed=2) * keep


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("m", ROWS)
def test_equals_dense(m: int, shape: tuple[int, int]) -> None:
    w, x, bias = pruned(*shape), integers(m, shape[1], seed=3), integers(shape[0], seed=4)
    p = prunus.pack(w)
    assert torch.equal(prunus.linear(x, p, bias), F.linear(x, w, bias))
    assert torch.equal(prunus.linear(x, p, activation="relu"), F.relu(F.linear(x, w)))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99, 1.0])
def test_any_sparsity(sparsity: float) -> None:
    w, x, bias = pruned(65, 300, sparsity), integers(9, 300, seed=3), integers(65, seed=4)
    assert torch.equal(prunus.linear(x, prunus.pack(w), bias), F.linear(x, w, bias))


@pytest.mark.parametrize(
    ("name", "dense"),
    [
        ("relu", F.relu),
        ("gelu", F.gelu),
        ("gelu_tanh", lambda t: F.gelu(t, approximate="tanh")),
        ("silu", F.silu),
    ],
)
def test_activations(name: str, dense: object) -> None:
    w = torch.randn(40, 70, generator=torch.Generator().manual_seed(0)) * (pruned(40, 70) != 0)
    x = torch.randn(11, 70, generator=torch.Generator().manual_seed(1))
    expected = dense(F.linear(x, w).double()).float()  # type: ignore[operator]
    torch.testing.assert_close(
        prunus.linear(x, prunus.pack(w), activation=name), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3), (1, 1), (0, 3), (2, 0, 3)], ids=str)
def test_leading_dimensions(lead: tuple[int, ...]) -> None:
    w, x, bias = pruned(6, 10), integers(*lead, 10, seed=3), integers(6, seed=4)
    y = prunus.linear(x, prunus.pack(w), bias)
    assert y.is_contiguous()
    assert torch.equal(y, F.linear(x, w, bias))


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, ::2],
        lambda t: t[..., ::2],
        lambda t: t[..., 1:11],
        lambda t: t[1:, 2:5, 3:13],
        lambda t: t.transpose(0, 1),
        lambda t: t.transpose(0, 2),
        lambda t: t[:1].expand(5, -1, -1),
        lambda t: t[:, :1].expand(-1, 5, -1),
        lambda t: t[..., :1].expand(-1, -1, 10),
        lambda t: t.as_strided((4, 5, 10), (1, 3, 1)),
    ],
)
def test_any_strides(view: object) -> None:
    x = view(integers(4, 6, 20, seed=3))  # type: ignore[operator]
    w, bias = pruned(7, x.shape[-1]), integers(14, seed=4)[::2]
    p = prunus.pack(w)
    expected = F.linear(x.contiguous(), w, bias.contiguous())
    assert torch.equal(prunus.linear(x, p, bias), expected)
    assert np.array_equal(prunus.linear(x.numpy(), p, bias.numpy()), expected.numpy())


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_empty_weight(shape: tuple[int, int]) -> None:
    w, x, bias = torch.zeros(shape), integers(3, shape[1]), integers(shape[0], seed=4)
    assert torch.equal(prunus.linear(x, prunus.pack(w), bias), F.linear(x, w, bias))


def test_unaligned_memory() -> None:
    """safetensors gives 4-byte aligned floats and bytes at any address."""
    w, bias = pruned(40, 50), integers(41, seed=4)[1:]
    p, x = prunus.pack(w), integers(3 * 50 + 1, seed=3)[1:].view(3, 50)
    shifted = torch.empty(p.nbytes + 1, dtype=torch.uint8)[1:].copy_(buffer_tensor(p))
    assert torch.equal(prunus.linear(x, shifted, bias), F.linear(x, w, bias))


def test_numpy_and_torch_give_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((50, 90), dtype=np.float32) * (rng.random((50, 90)) < 0.3)
    x, bias = rng.standard_normal((17, 90), dtype=np.float32), rng.standard_normal(50, dtype=np.float32)
    p = prunus.pack(w)
    y = prunus.linear(torch.from_numpy(x), p, torch.from_numpy(bias), "gelu")
    assert np.array_equal(y.numpy(), prunus.linear(x, p, bias, "gelu"))


def test_negative_view() -> None:
    """torch marks the imaginary part of a conjugate as negated without touching the memory."""
    z = torch.complex(integers(3, 10, seed=3), integers(3, 10, seed=4))
    x, w = z.conj().imag, pruned(6, 10)
    assert x.is_neg()
    assert torch.equal(prunus.linear(x, prunus.pack(w)), F.linear(x, w))


def test_inference_mode() -> None:
    w = pruned(6, 10)
    p = prunus.pack(w)
    with torch.inference_mode():
        x = integers(3, 10, seed=3)
        y = prunus.linear(x, p)
    assert y.is_inference()
    assert torch.equal(y, F.linear(x, w))
    assert torch.equal(prunus.linear(x, p), F.linear(x, w)), "an inference tensor in grad mode"


def test_buffer_shares_memory_and_is_made_once() -> None:
    p = prunus.pack(pruned(6, 10))
    tensor = buffer_tensor(p)
    assert tensor.data_ptr() == p.buffer.ctypes.data
    assert buffer_tensor(p) is tensor


@pytest.mark.filterwarnings("error")
def test_read_only_buffer() -> None:
    w = pruned(6, 10)
    p = prunus.PackedWeight.from_buffer(np.frombuffer(prunus.pack(w).buffer.tobytes(), np.uint8))
    assert not p.buffer.flags.writeable
    x = integers(3, 10, seed=3)
    assert torch.equal(prunus.linear(x, p), F.linear(x, w))


class Layer(torch.nn.Module):
    """What a user would write around the op."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.out_features = len(w)
        self.register_buffer("packed", buffer_tensor(prunus.pack(w)).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.prunus.linear(x, self.packed, None, self.out_features, 0)


def test_module_is_ordinary() -> None:
    w, x = pruned(6, 10), integers(3, 10, seed=3)
    layer, expected = Layer(w), F.linear(x, w)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    assert torch.equal(layer.half().float()(x), expected), "bytes do not follow a dtype change"
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = Layer(w)
    fresh.packed.zero_()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Dense float32 on the same halves, rounded once; bias of either dtype; under compile and opcheck too."""
    w, bias = pruned(33, 257), integers(33, seed=4)
    p = prunus.pack(w)
    for m in (1, 9, 70):
        x = integers(m, 257, seed=3).to(dtype)
        exact = F.linear(x.float(), w, bias).to(dtype)
        assert torch.equal(prunus.linear(x, p, bias), exact)
        assert torch.equal(prunus.linear(x, p, bias.to(dtype)), exact)
        arguments = (x, buffer_tensor(p), bias.to(dtype), 33, 0)
        torch.library.opcheck(torch.ops.prunus.linear.default, arguments)
    compiled = torch.compile(lambda t: prunus.linear(t, p, bias), fullgraph=True, backend="aot_eager")
    assert compiled(x).dtype == dtype
    assert torch.equal(compiled(x), exact)


# Rows of y: in cache lines, not in lines, multiples of 4096 bytes apart.
@pytest.mark.parametrize("n", [96, 1000, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_cache_lines_and_others_give_the_same(isa: str, n: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(n)
    w = torch.randint(-3, 4, (n, 112), generator=generator).float()
    w *= torch.rand(n, 112, generator=generator) < 0.3
    p = prunus.pack(w)
    for m in (15, 16, 40, 64, 71):
        room = torch.randint(-3, 4, (m * 128 + 1,), generator=generator).to(dtype)
        for shift in (0, 1):  # x begins a cache line, or does not
            x = room[shift : m * 128 + shift].view(m, 128)[:, :112]
            expected = (x.float() @ w.T).to(dtype)
            assert torch.equal(prunus.linear(x, p), expected)
