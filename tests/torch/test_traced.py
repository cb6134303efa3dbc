"""Programs made of packed layers (torch.export, torch.fx, torch.jit) run with and without gradients."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus import SparseLinear
from prunus.nn import FusedMLP, FusedResidual
from prunus.ops import differentiable


class Model(nn.Module):
    """A plain layer, one with an activation, a gated MLP and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(10, 10)
        self.plain = nn.Linear(10, 10)
        self.mlp = nn.ModuleDict({name: nn.Linear(*size) for name, size in SIZES.items()})
        self.output = nn.ModuleDict({"dense": nn.Linear(10, 10), "norm": nn.LayerNorm(10)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.plain(self.first(x)))
        if isinstance(self.mlp, FusedMLP):
            x = self.mlp(x)
        else:
            x = self.mlp["down"](nn.functional.silu(self.mlp["gate"](x)) * self.mlp["up"](x))
        if isinstance(self.output, FusedResidual):
            return self.output(x, x)
        return self.output["norm"](self.output["dense"](x) + x)


SIZES = {"up": (10, 16), "gate": (10, 16), "down": (16, 10)}


@pytest.fixture
def dense() -> Model:
    return Model().eval()


@pytest.fixture
def packed(dense: Model) -> Model:
    model = copy.deepcopy(dense)
    model.plain = SparseLinear.from_linear(model.plain)
    for parent, name in (*((model.mlp, name) for name in SIZES), (model.output, "dense")):
        parent[name] = SparseLinear.from_linear(parent[name])
    model.mlp = FusedMLP(model.mlp, {name: name for name in SIZES}, "silu")
    model.output = FusedResidual(model.output, {"dense": "dense", "norm": "norm"})
    return model.eval()


def check(program: nn.Module, dense: Model) -> None:
    """Answers in every mode; gradients of the input, of biases and of the dense layer before."""
    for shape in ((4, 10), (4, 10)):
        x = torch.randn(shape)
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode():
                torch.testing.assert_close(program(x), dense(x), rtol=1e-4, atol=1e-5)
    x, y = (torch.ones(4, 10, requires_grad=True) for _ in range(2))
    program(x).square().sum().backward()
    dense(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    gradients = {name: p.grad for name, p in program.named_parameters()}
    for name, parameter in dense.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)
    assert {"plain.bias", "mlp.gate.bias", "first.weight"} <= gradients.keys()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_export_runs_with_gradients(
    dense: Model, packed: Model, tmp_path: Path, grad: bool, strict: bool
) -> None:
    with torch.set_grad_enabled(grad):
        program = torch.export.export(packed, (torch.ones(4, 10),), strict=strict)
    torch.export.save(program, tmp_path / "model.pt2")
    names = [str(node.target) for node in program.graph.nodes if "prunus" in str(node.target)]
    expected = ["differentiable_gated"] + ["differentiable_linear"] * 3
    assert sorted(names) == [f"prunus.{name}.default" for name in expected]
    check(torch.export.load(tmp_path / "model.pt2").module(), dense)


def test_symbolic_tracing(dense: Model, packed: Model) -> None:
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            layer = torch.fx.symbolic_trace(nn.Sequential(packed.first, packed.plain))
        x, y = (torch.ones(4, 10, requires_grad=True) for _ in range(2))
        layer(x).sum().backward()
        dense.plain(dense.first(y)).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)


def test_a_traced_program(packed: Model) -> None:
    x = torch.randn(4, 10)
    with torch.no_grad():
        program = torch.jit.trace(packed, x)
        assert torch.equal(program(x), packed(x))


def test_scripts_are_refused(packed: Model) -> None:
    for model in (packed.plain, nn.Sequential(packed.plain), packed):
        with pytest.raises(RuntimeError, match=r"torch\.jit\.script can read, got a packed one.*to_dense_"):
            torch.jit.script(model)


@pytest.mark.parametrize("activation", range(5))
def test_opcheck(activation: int) -> None:
    w = torch.arange(60).remainder(3).view(6, 10).float() - 1
    p, x, bias = prunus.pack(w).tensor, torch.randn(3, 10), torch.randn(6)
    torch.library.opcheck(torch.ops.prunus.differentiable_linear, (x, p, bias, 6, activation))
    x, biases = x.requires_grad_(), (bias.requires_grad_(), None)
    torch.library.opcheck(torch.ops.prunus.differentiable_linear, (x, p, bias, 6, activation))
    torch.library.opcheck(torch.ops.prunus.differentiable_gated, (x, p, p, *biases, 6, activation))


def test_autocast_gives_its_dtype() -> None:
    p, x = prunus.pack(torch.eye(4)).tensor, torch.ones(2, 4, requires_grad=True)
    bias = torch.ones(4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = differentiable.differentiable_linear(x, p, bias, 4, 1)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert (x.grad.dtype, bias.grad.dtype) == (torch.float32, torch.float32)
    assert torch.equal(x.grad, torch.ones(2, 4))
