"""Gradients of prunus.linear and SparseLinear: those of the dense layer with the same zeros."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus
from prunus.ops import autograd as ops_autograd
from prunus.ops.torch_ops import buffer_tensor

ACTIVATIONS: dict[str | None, Any] = {
    None: lambda z: z,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
}


def weight(n: int, k: int, sparsity: float = 0.7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n * 1000 + k)
    return torch.randn(n, k, generator=generator) * (torch.rand(n, k, generator=generator) >= sparsity)


def inputs(n: int, lead: tuple[int, ...], k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x, bias = torch.randn(*lead, k, generator=generator), torch.randn(n, generator=generator)
    return x, bias, torch.randn(*lead, n, generator=generator)


@pytest.mark.parametrize("activation", list(ACTIVATIONS), ids=str)
@pytest.mark.parametrize(
    ("n", "k", "lead"),
    [(1, 1, (1,)), (7, 13, (5,)), (64, 96, (2, 3)), (257, 193, (33,)), (20, 30, ()), (5, 4, (0,))],
)
def test_equal_those_of_the_dense_layer(
    n: int, k: int, lead: tuple[int, ...], activation: str | None
) -> None:
    w = weight(n, k)
    x, bias, seed = inputs(n, lead, k)
    x.requires_grad_()
    bias.requires_grad_()
    y = prunus.linear(x, prunus.pack(w), bias, activation)
    y.backward(seed)
    x64, bias64 = (t.detach().double().requires_grad_() for t in (x, bias))
    y64 = ACTIVATIONS[activation](F.linear(x64, w.double(), bias64))
    y64.backward(seed.double())
    for found, expected in ((y, y64), (x.grad, x64.grad), (bias.grad, bias64.grad)):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Input .* is not a double precision")
@pytest.mark.parametrize("activation", ["gelu", "silu", None], ids=str)
def test_gradcheck(activation: str | None) -> None:
    """Numerical derivatives. The kernels are float32: a wide step, and a tolerance to match."""
    p = prunus.pack(weight(6, 9, 0.5))
    x, bias, _ = inputs(6, (4,), 9)
    torch.autograd.gradcheck(
        lambda x, bias: prunus.linear(x, p, bias, activation),
        (x.requires_grad_(), bias.requires_grad_()),
        eps=1e-2,
        atol=5e-3,
        rtol=1e-2,
        nondet_tol=0.0,
    )


@pytest.mark.parametrize("which", ["x", "bias"])
def test_only_what_is_asked_for(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = prunus.pack(weight(6, 9))
    x, bias, seed = inputs(6, (4,), 9)
    (x if which == "x" else bias).requires_grad_()
    if which == "bias":  # a frozen input costs no transposed weight
        monkeypatch.setattr(ops_autograd, "_transpose", None)
    prunus.linear(x, p, bias).backward(seed)
    assert (x.grad is None, bias.grad is None) == (which != "x", which != "bias")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_value_types(dtype: str) -> None:
    p = prunus.pack(weight(40, 50), dtype=dtype)
    x, _, seed = inputs(40, (3,), 50)
    prunus.linear(x.requires_grad_(), p).backward(seed)
    torch.testing.assert_close(x.grad, seed @ torch.from_numpy(p.to_dense()), rtol=1e-5, atol=1e-5)


def test_the_transposed_weight_is_made_once_and_goes_with_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    packs = []
    pack = ops_autograd.pack
    monkeypatch.setattr(ops_autograd, "pack", lambda *a, **k: packs.append(1) or pack(*a, **k))
    layer = prunus.SparseLinear.from_linear(nn.Linear(9, 6))
    x, _, seed = inputs(6, (4,), 9)
    for _ in range(3):
        layer(x.requires_grad_()).backward(seed)
    assert len(packs) == 1
    other = prunus.SparseLinear.from_linear(nn.Linear(9, 6))
    layer.load_state_dict(other.state_dict())  # new bytes: the old transposed weight is wrong now
    x.grad = None
    layer(x).backward(seed)
    assert len(packs) == 2
    torch.testing.assert_close(x.grad, seed @ other.to_linear().weight, rtol=1e-5, atol=1e-5)
    kept = weakref.ref(ops_autograd._transposed[layer.packed][1])
    del layer
    gc.collect()
    assert kept() is None


def test_bytes_changed_in_place_are_noticed() -> None:
    first, second = (prunus.pack(weight(8, 8, 0.5) * scale, format="col8") for scale in (1, 2))
    buffer = buffer_tensor(first).clone()
    x = torch.ones(1, 8, requires_grad=True)
    for p in (first, second):
        buffer.copy_(buffer_tensor(p))
        x.grad = None
        prunus.linear(x, buffer).sum().backward()
        torch.testing.assert_close(x.grad[0], torch.from_numpy(p.to_dense()).sum(0))


def test_an_accelerated_model_is_called_like_any_other() -> None:
    """Without no_grad, and in a training loop where only the biases and what is before learn."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 8))
    prunus.prune_(dense, prunus.Unstructured(0.5), filter_fn=lambda module, name: name == "2")
    sparse, start = copy.deepcopy(dense), dense[2].bias.detach().clone()
    dense[2].weight.requires_grad_(False)
    sparse[2] = prunus.SparseLinear.from_linear(sparse[2])
    x, target = torch.randn(32, 16), torch.randn(32, 8)
    for model in (dense, sparse):
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
            optimizer.step()
    torch.testing.assert_close(sparse(x), dense(x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sparse[0].weight, dense[0].weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sparse[2].bias, dense[2].bias, rtol=1e-3, atol=1e-4)
    assert not torch.equal(sparse[2].bias, start)


def test_checkpointing_and_inference_inputs() -> None:
    layer = prunus.SparseLinear.from_linear(nn.Linear(9, 6), activation="silu")
    x, _, seed = inputs(6, (4,), 9)
    layer(x.requires_grad_()).backward(seed)
    plain, x.grad = x.grad, None
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).backward(seed)
    assert torch.equal(x.grad, plain)
    with torch.no_grad():
        assert not layer(x).requires_grad
    with torch.inference_mode():
        assert not layer(x).requires_grad


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled(dynamic: bool) -> None:
    model = nn.Sequential(prunus.SparseLinear.from_linear(nn.Linear(9, 6), activation="gelu"), nn.Tanh())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (4, 7) if dynamic else (4,):
        x, _, seed = inputs(6, (rows,), 9)
        gradients = []
        for call in (model, compiled):
            x = x.detach().requires_grad_()
            model.zero_grad()
            call(x).backward(seed)
            gradients.append((x.grad, model[0].bias.grad.clone()))
        torch.testing.assert_close(*gradients)


def test_opcheck() -> None:
    packed = buffer_tensor(prunus.pack(weight(6, 9)))
    for shape in ((4, 6), (2, 3, 6), (0, 6)):
        torch.library.opcheck(torch.ops.prunus.input_gradient, (torch.randn(shape), packed, 9))


def test_second_derivatives_are_refused() -> None:
    x = torch.ones(2, 9, requires_grad=True)
    y = prunus.linear(x, prunus.pack(weight(6, 9)))
    (first,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_wrong_operands_are_named_in_training_too() -> None:
    p = prunus.pack(weight(6, 9))
    bias = torch.zeros(6, requires_grad=True)
    with pytest.raises(ValueError, match=r"x: expected \(\.\.\., 9\), got \(2, 8\)"):
        prunus.linear(torch.ones(2, 8, requires_grad=True), p)
    with pytest.raises(ValueError, match="x: expected float32, bfloat16 or float16, got float64"):
        prunus.linear(torch.ones(2, 9, dtype=torch.float64), p, bias)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_get_half_gradients_and_a_float_bias_a_float_one(dtype: torch.dtype) -> None:
    x = torch.ones(3, 4, dtype=dtype, requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    p = prunus.pack(torch.tensor([[0.0, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 3.0]]))
    prunus.linear(x, p, bias).sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad[0].tolist() == [1.0, 2.0, 0.0, 3.0]
    assert bias.grad.dtype == torch.float32
    assert bias.grad.tolist() == [3.0, 3.0]
