"""The operators on a real GPU: values, graphs, streams, compilers, and what is refused."""

import pytest
import torch

import prunus
from prunus import SparseLinear
from prunus.nn import to_dense_

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

XS = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def pruned(n: int, k: int, sparsity: float = 0.6) -> torch.Tensor:
    rng = torch.Generator().manual_seed(n * k)
    return torch.randn(n, k, generator=rng) * (torch.rand(n, k, generator=rng) >= sparsity)


def on_gpu(p: prunus.PackedWeight) -> torch.Tensor:
    return torch.from_numpy(p.buffer).cuda()


def check(y: torch.Tensor, right: torch.Tensor) -> None:
    scale = max(1.0, float(right.abs().max()))
    assert float((y.double() - right).abs().max()) <= TOLERANCE[y.dtype] * scale


@pytest.mark.parametrize("dtype", XS)
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "int8"])
def test_values(dtype: torch.dtype, stored: str) -> None:
    for n, k in ((1, 1), (37, 300), (4099, 256), (513, 4096), (64, 11008)):
        p = prunus.pack(pruned(n, k), dtype=stored, format="warp")
        packed, dense = on_gpu(p), torch.from_numpy(p.to_dense()).double().cuda()
        bias = torch.randn(n, device="cuda").to(dtype)
        for m in (1, 2, 3, 16, 17, 100):
            x = torch.randn(m, k, device="cuda").to(dtype)
            y = torch.ops.prunus.linear(x, packed, bias, n, 1)
            check(y, (x.double() @ dense.t() + bias.double()).relu())


def test_residual_gated_and_many() -> None:
    a, b = (prunus.pack(pruned(96, 128, s), dtype="bfloat16", format="warp") for s in (0.5, 0.8))
    first, second = on_gpu(a), on_gpu(b)
    one, two = (torch.from_numpy(p.to_dense()).double().cuda() for p in (a, b))
    for m in (1, 5, 40):
        x = torch.randn(2, m, 128, device="cuda").bfloat16()
        residual = torch.randn(2, m, 96, device="cuda").bfloat16()
        y = torch.ops.prunus.linear_add(x, first, None, residual, 96, 2)
        check(y, torch.nn.functional.gelu(x.double() @ one.t()) + residual.double())
        y = torch.ops.prunus.gated(x, first, second, None, None, 96, 4)
        check(y, torch.nn.functional.silu(x.double() @ one.t()) * (x.double() @ two.t()))
        many = torch.ops.prunus.linear_many(x, [first, second], [None, None], [96, 96])
        check(many[0], x.double() @ one.t())
        check(many[1], x.double() @ two.t())


def test_opcheck() -> None:
    p = on_gpu(prunus.pack(pruned(24, 64), dtype="float16", format="warp"))
    x = torch.randn(3, 64, device="cuda").half()
    bias, residual = torch.randn(24, device="cuda"), torch.randn(3, 24, device="cuda").half()
    torch.library.opcheck(torch.ops.prunus.linear.default, (x, p, bias, 24, 1))
    torch.library.opcheck(torch.ops.prunus.linear_add.default, (x, p, None, residual, 24, 0))
    torch.library.opcheck(torch.ops.prunus.gated.default, (x, p, p, None, bias, 24, 4))
    torch.library.opcheck(torch.ops.prunus.linear_many.default, (x, [p, p], [None, bias], [24, 24]))


def test_a_graph_holds_the_calls_and_follows_the_bytes() -> None:
    p, q = (prunus.pack(pruned(64, 256) * sign, dtype="bfloat16", format="warp") for sign in (1, -1))
    packed, x = on_gpu(p), torch.zeros(1, 256, device="cuda", dtype=torch.bfloat16)
    many = torch.zeros(40, 256, device="cuda", dtype=torch.bfloat16)
    for given in (x, many):
        torch.ops.prunus.linear(given, packed, None, 64, 0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, z = (torch.ops.prunus.linear(given, packed, None, 64, 0) for given in (x, many))
    for weight in (p, q):
        packed.copy_(torch.from_numpy(weight.buffer))
        x.normal_(), many.normal_()
        graph.replay()
        dense = torch.from_numpy(weight.to_dense()).double().cuda()
        check(y, x.double() @ dense.t())
        check(z, many.double() @ dense.t())


def test_streams() -> None:
    packed = on_gpu(prunus.pack(pruned(64, 4096), dtype="bfloat16", format="warp"))
    x = torch.randn(1, 4096, device="cuda").bfloat16()
    right = torch.ops.prunus.linear(x, packed, None, 64, 0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        late = x * 0
        torch.cuda._sleep(20_000_000)
        late += x
        y = torch.ops.prunus.linear(late, packed, None, 64, 0)
    side.synchronize()
    assert torch.equal(y, right)


def test_a_layer_moves_there_and_back() -> None:
    linear = torch.nn.Linear(128, 72)
    linear.weight.data.mul_(torch.rand(72, 128) > 0.5)
    x = torch.randn(4, 128)
    for dtype in ("float32", "bfloat16", "int8"):
        layer = SparseLinear.from_linear(linear, dtype=dtype)
        model = torch.nn.Sequential(layer)
        before = layer.to_linear().weight.detach().clone()
        right = torch.nn.functional.linear(x, before, linear.bias)
        model.cuda()
        assert layer.packed.is_cuda
        assert layer.packed_weight.format == "warp"
        check(model(x.cuda()).cpu().detach(), right.double())
        state = model.state_dict()
        model.cpu()
        assert layer.packed_weight.format != "warp"
        assert torch.allclose(layer.to_linear().weight, before, atol=1e-6)
        fresh = torch.nn.Sequential(SparseLinear(128, 72))
        fresh.load_state_dict(state)
        assert torch.allclose(fresh[0].to_linear().weight, before, atol=1e-6)
        fresh.cuda().load_state_dict(torch.nn.Sequential(layer).state_dict())
        check(fresh(x.cuda()).cpu().detach(), right.double())
        to_dense_(fresh)
        assert torch.allclose(fresh[0].weight.cpu(), before, atol=1e-6)
        layer.bias = linear.bias


def test_gradients() -> None:
    layer = SparseLinear.from_linear(torch.nn.Linear(96, 40).cuda())
    x = torch.randn(5, 96, device="cuda", requires_grad=True)
    layer(x).square().sum().backward()
    dense = layer.to_linear()
    again = x.detach().clone().requires_grad_()
    dense(again).square().sum().backward()
    assert x.grad is not None
    assert again.grad is not None
    assert torch.allclose(x.grad, again.grad, rtol=1e-4, atol=1e-4)


def test_compiled_and_autocast() -> None:
    layer = SparseLinear.from_linear(torch.nn.Linear(96, 40).cuda(), dtype="bfloat16")
    x = torch.randn(2, 96, device="cuda")
    with torch.inference_mode():
        right = layer(x)
        compiled = torch.compile(layer, fullgraph=True)
        assert torch.allclose(compiled(x), right, rtol=1e-4, atol=1e-4)
        with torch.autocast("cuda", torch.bfloat16):
            y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), right, rtol=3e-2, atol=3e-2)


def test_what_is_refused() -> None:
    p = prunus.pack(pruned(24, 64), format="warp")
    packed, x = on_gpu(p), torch.randn(2, 64, device="cuda")
    linear = torch.ops.prunus.linear
    with pytest.raises(ValueError, match="packed: expected a tensor on cuda:0 like x, got cpu"):
        linear(x, packed.cpu(), None, 24, 0)
    with pytest.raises(ValueError, match="x: expected a tensor on CUDA like packed, got cpu"):
        linear(x.cpu(), packed, None, 24, 0)
    with pytest.raises(ValueError, match="bias: expected a tensor on cuda:0 like x, got cpu"):
        linear(x, packed, torch.zeros(24), 24, 0)
    shifted = torch.empty(packed.numel() + 1, dtype=torch.uint8, device="cuda")[1:].copy_(packed)
    with pytest.raises(ValueError, match="memory aligned to 16 bytes"):
        linear(x, shifted, None, 24, 0)
    with pytest.raises(ValueError, match="p: expected a packed weight on cuda:0 like x"):
        prunus.linear(x, p)
    with pytest.raises(ValueError, match="a format that CUDA multiplies, got"):
        prunus.linear(x, on_gpu(prunus.pack(pruned(24, 64))))
    assert linear(x, packed, None, 25, 0).isnan().all()  # only the device can see what the bytes are
    assert torch.allclose(prunus.linear(x, packed), x @ torch.from_numpy(p.to_dense()).cuda().t(), atol=1e-4)
    with pytest.raises(ValueError, match="trainable: expected a layer on the CPU"):
        SparseLinear.from_linear(torch.nn.Linear(8, 8), trainable=True).cuda()


def test_damaged_bytes() -> None:
    p = prunus.pack(pruned(64, 512), dtype="bfloat16", format="warp")
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 512, device="cuda")
    for _ in range(200):
        bytes_ = torch.from_numpy(p.buffer.copy())
        places = torch.randint(0, len(bytes_), (8,), generator=rng)
        bytes_[places] = torch.randint(0, 256, (8,), generator=rng, dtype=torch.uint8)
        torch.ops.prunus.linear(x, bytes_.cuda(), None, 64, 0)
        torch.ops.prunus.linear(x.expand(30, 3, 512).reshape(90, 512), bytes_.cuda(), None, 64, 0)
    torch.cuda.synchronize()
