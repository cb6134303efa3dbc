"""The op in torch's compilers: opcheck, torch.compile, torch.export."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import prunus
from prunus.ops.torch_ops import buffer_tensor

OP = torch.ops.prunus.linear
N, K = 6, 10
WEIGHT = torch.arange(N * K).remainder(3).view(N, K).float() - 1


@pytest.fixture
def packed() -> torch.Tensor:
    return buffer_tensor(prunus.pack(WEIGHT))


class Block(torch.nn.Module):
    """Two layers with something between them for the compiler to fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("up", buffer_tensor(prunus.pack(WEIGHT)))
        self.register_buffer("down", buffer_tensor(prunus.pack(WEIGHT.T.contiguous())))
        self.register_buffer("bias", torch.arange(N).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = OP(x, self.up, self.bias, N, 1)
        return x + OP(h * 2, self.down, None, K, 0)

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.linear(F.relu(F.linear(x, WEIGHT, self.bias)) * 2, WEIGHT.T)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("shape", [(3, K), (2, 3, K), (K,), (0, K)], ids=str)
def test_opcheck(packed: torch.Tensor, shape: tuple[int, ...], bias: bool) -> None:
    torch.library.opcheck(OP, (torch.randn(shape), packed, torch.randn(N) if bias else None, N, 2))


def test_opcheck_strides(packed: torch.Tensor) -> None:
    torch.library.opcheck(OP, (torch.randn(K, 4).t(), packed, torch.randn(2 * N)[::2], N, 0))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_inductor(dynamic: bool) -> None:
    block = Block()
    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic)
    for m in (5, 9) if dynamic else (5,):
        x = torch.ones(m, K)
        assert torch.equal(compiled(x), block.dense(x))


def test_dynamic_shapes_compile_once() -> None:
    block, compilations = Block(), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=backend)
    for shape in [(5, K), (9, K), (64, K)]:
        x = torch.ones(shape)
        assert torch.equal(compiled(x), block.dense(x))
    assert len(compilations) == 1


def test_public_function_compiles_with_a_new_weight() -> None:
    compiled = torch.compile(
        lambda x, p, bias: prunus.linear(x, p, bias, "relu"), fullgraph=True, backend="aot_eager"
    )
    x, bias = torch.ones(3, K), torch.ones(N)
    for scale in (1, 2):
        p = prunus.pack(WEIGHT * scale)
        for _ in range(2):
            assert torch.equal(compiled(x, p, bias), F.relu(F.linear(x, WEIGHT * scale, bias)))


def test_export_and_load(tmp_path: Path) -> None:
    block, rows = Block(), torch.export.Dim("rows", min=2, max=100)
    program = torch.export.export(block, (torch.ones(4, K),), dynamic_shapes={"x": {0: rows}})
    names = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert names.count(OP.default) == 2
    torch.export.save(program, tmp_path / "block.pt2")
    loaded = torch.export.load(tmp_path / "block.pt2").module()
    for m in (4, 33):
        x = torch.ones(m, K)
        assert torch.equal(loaded(x), block.dense(x))


def test_fake_kernel_refuses_like_the_real_one(packed: torch.Tensor) -> None:
    for x, sentence in [
        (torch.ones(3, K, dtype=torch.float64), "x: expected float32, bfloat16 or float16, got float64"),
        (torch.ones(()), r"x: expected \(..., k\), got \(\)"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            OP(x.to("meta"), packed.to("meta"), None, N, 0)
    y = OP(torch.ones(2, 3, K, device="meta"), packed.to("meta"), None, N, 0)
    assert y.shape == (2, 3, N)
    assert y.device.type == "meta"
