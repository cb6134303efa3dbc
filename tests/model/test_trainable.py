"""SparseLinear(trainable=True): trained as a dense layer whose pruned weights are held at zero."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunus
from prunus import NM, Block, SparseLinear, Unstructured

N, K = 40, 70
PATTERNS = [Unstructured(0.8), NM(2, 4), Block((4, 4), 0.5), Unstructured(0.0), Unstructured(1.0)]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "radam": lambda p: torch.optim.RAdam(p, 0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "asgd": lambda p: torch.optim.ASGD(p, 0.01),
}


def linear(pattern: Any = PATTERNS[0], n: int = N, k: int = K) -> tuple[nn.Linear, Tensor]:
    """A dense layer with zeros, and its mask."""
    torch.manual_seed(0)
    layer = nn.Linear(k - k % 4 if isinstance(pattern, NM | Block) else k, n)
    mask = prunus.select(layer.weight.detach().abs(), pattern)
    layer.weight.data *= mask
    return layer, mask


def inputs(k: int, n: int = N, lead: tuple[int, ...] = (9,)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*lead, k, generator=generator), torch.randn(*lead, n, generator=generator)


def dense_step(layer: nn.Linear, mask: Tensor, optimizer: Any, x: Tensor, target: Tensor) -> None:
    """What training with held zeros is."""
    optimizer.zero_grad()
    F.mse_loss(layer(x), target).backward()
    layer.weight.grad *= mask
    optimizer.step()
    layer.weight.data *= mask


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("lead", [(9,), (2, 5), (), (0,), (130,)], ids=str)
def test_gradients_are_those_of_the_dense_layer(
    pattern: Any, activation: str | None, lead: tuple[int, ...]
) -> None:
    dense, mask = linear(pattern)
    sparse = SparseLinear.from_linear(dense, mask, activation=activation, trainable=True)
    sparse.bias = nn.Parameter(dense.bias.detach().clone())
    n, k = dense.weight.shape
    x, seed = inputs(k, n, lead)
    answers = []
    for layer in (dense, sparse):
        x = x.detach().requires_grad_()
        y = layer(x)
        if activation and layer is dense:
            y = F.gelu(y)
        y.backward(seed)
        answers.append((y.detach(), x.grad, layer.bias.grad))
    for expected, found in zip(*answers, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sparse.values.grad, dense.weight.grad[mask], rtol=1e-4, atol=1e-4)
    assert torch.equal(sparse.values, dense.weight[mask])


@pytest.mark.filterwarnings("ignore:Input .* is not a double precision")
def test_gradcheck() -> None:
    """Numerical derivatives. The kernels are float32: a wide step, and a tolerance to match."""
    dense, mask = linear(Unstructured(0.5), 6, 9)
    layer = SparseLinear.from_linear(dense, mask, activation="gelu", trainable=True)
    x, _ = inputs(9, 6, (4,))

    def run(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"values": values, "bias": bias}, (x,))

    torch.autograd.gradcheck(
        run, (x.requires_grad_(), layer.values, layer.bias), eps=1e-2, atol=5e-3, rtol=1e-2, nondet_tol=0.0
    )


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimiser(name: str) -> None:
    dense, mask = linear()
    sparse = SparseLinear.from_linear(dense, mask, trainable=True)
    sparse.bias = nn.Parameter(dense.bias.detach().clone())
    optimizers = [OPTIMIZERS[name](layer.parameters()) for layer in (dense, sparse)]
    x, target = inputs(K)
    for _ in range(4):
        dense_step(dense, mask, optimizers[0], x, target)
        optimizers[1].zero_grad()
        F.mse_loss(sparse(x), target).backward()
        optimizers[1].step()
    torch.testing.assert_close(sparse.to_linear().weight, dense.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sparse.bias, dense.bias, rtol=1e-3, atol=1e-4)
    assert not torch.equal(sparse.values, linear()[0].weight[mask])


def test_a_closure_and_many_evaluations() -> None:
    dense, mask = linear()
    sparse = SparseLinear.from_linear(dense, mask, trainable=True)
    x, target = inputs(K)
    optimizer = torch.optim.LBFGS(sparse.parameters(), max_iter=30)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(sparse(x), target)
        loss.backward()
        return loss

    first = float(closure())
    optimizer.step(closure)
    assert float(closure()) < 0.2 * first


def test_accumulated_gradients() -> None:
    layer = SparseLinear.from_linear(*linear(), trainable=True)
    x, seed = inputs(K, lead=(8,))
    layer(x).backward(seed)
    whole = layer.values.grad.clone()
    layer.zero_grad()
    for part in range(4):
        layer(x[2 * part : 2 * part + 2]).backward(seed[2 * part : 2 * part + 2])
    torch.testing.assert_close(layer.values.grad, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    dense, mask = linear()
    layer = SparseLinear.from_linear(dense, mask, trainable=True)
    x, seed = inputs(K)
    x.requires_grad_()
    with torch.autocast("cpu", dtype):
        y = layer(x)
    y.backward(seed.to(dtype))
    assert y.dtype == dtype
    assert x.grad.dtype == layer.values.grad.dtype == layer.bias.grad.dtype == torch.float32
    expected = (seed.T @ x.detach())[mask]
    torch.testing.assert_close(layer.values.grad, expected, rtol=0.05, atol=0.05)


def test_a_half_model() -> None:
    dense, mask = linear()
    layer = SparseLinear.from_linear(dense.to(torch.bfloat16), mask, trainable=True)
    x, seed = (t.to(torch.bfloat16) for t in inputs(K))
    layer(x).backward(seed)
    assert layer.values.dtype == layer.values.grad.dtype == layer.to_linear().weight.dtype == torch.bfloat16
    assert torch.equal(layer.to_linear().weight, dense.weight)
    layer.float()
    assert layer.values.dtype == torch.float32
    assert layer(x.float()).dtype == torch.float32


def changed_by_data(values: Tensor) -> None:
    values.data.mul_(2)


def changed_by_numpy(values: Tensor) -> None:
    values.detach().numpy()[:] *= 2


def changed_in_inference_mode(values: Tensor) -> None:
    with torch.inference_mode():
        values.mul_(2)


def replaced(values: Tensor) -> None:
    values.data = values.data * 2


@pytest.mark.parametrize("change", [changed_by_data, changed_by_numpy, changed_in_inference_mode, replaced])
def test_changes_that_no_version_counter_sees(change: Callable[[Tensor], None]) -> None:
    layer = SparseLinear.from_linear(*linear(), trainable=True)
    x, _ = inputs(K)
    x = x.requires_grad_()
    before = layer(x) - layer.bias
    before.sum().backward()
    gradient, x.grad = x.grad, None
    change(layer.values)
    after = layer(x) - layer.bias
    after.sum().backward()
    torch.testing.assert_close(after, 2 * before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, 2 * gradient, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x) - layer.bias, 2 * before, rtol=1e-5, atol=1e-5)


def test_values_changed_between_forward_and_backward_are_refused_as_for_a_dense_layer() -> None:
    layer = SparseLinear.from_linear(*linear(), trainable=True)
    x, seed = inputs(K)
    y = layer(x)
    with torch.no_grad():
        layer.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(seed)


def test_a_kept_zero_learns() -> None:
    dense, mask = linear()
    dense.weight.data.zero_()
    layer = SparseLinear.from_linear(dense, mask, trainable=True)
    assert layer.packed_weight.nnz == int(mask.sum())
    assert not layer.values.any()
    x, target = inputs(K)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    F.mse_loss(layer(x), target).backward()
    optimizer.step()
    assert layer.values.all()
    assert torch.equal(layer.to_linear().weight != 0, mask)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(backend: str) -> None:
    """Forward, backward and steps of the optimiser between, in one graph each."""
    layer = SparseLinear.from_linear(*linear(), activation="gelu", trainable=True)
    model = nn.Sequential(layer, nn.Tanh())
    other = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x, target = inputs(K)
    for call, of in ((other, other), (compiled, model)):
        optimizer = torch.optim.SGD(of.parameters(), 0.5)
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(call(x), target).backward()
            optimizer.step()
    torch.testing.assert_close(layer.values, other[0].values)
    torch.testing.assert_close(compiled(x), other(x))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), other(x))


def trained(pattern: Any = PATTERNS[0]) -> SparseLinear:
    """A layer whose packed bytes are older than its values."""
    layer = SparseLinear.from_linear(*linear(pattern), trainable=True)
    with torch.no_grad():
        layer.values.add_(1)
    return layer


def by_pickle(layer: SparseLinear) -> SparseLinear:
    return pickle.loads(pickle.dumps(layer))


def by_torch(layer: SparseLinear) -> SparseLinear:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_state(layer: SparseLinear) -> SparseLinear:
    other = SparseLinear(layer.in_features, layer.out_features, trainable=True)
    other.load_state_dict(layer.state_dict())
    return other


def by_assigned_state(layer: SparseLinear) -> SparseLinear:
    other = SparseLinear(layer.in_features, layer.out_features, trainable=True)
    other.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True)
    return other


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, by_torch, by_state, by_assigned_state])
def test_copies_are_trained_on(copied: Callable[[SparseLinear], SparseLinear], pattern: Any) -> None:
    layer = trained(pattern)
    other = copied(layer)
    x, seed = inputs(layer.in_features, layer.out_features)
    assert other.trainable
    assert other.values is not layer.values
    for one in (layer, other):
        one(x).backward(seed)
    assert torch.equal(other.values, layer.values)
    assert torch.equal(other.values.grad, layer.values.grad)
    assert torch.equal(other.to_linear().weight, layer.to_linear().weight)
    with torch.no_grad():
        other.values.add_(1)
    assert not torch.equal(other(x), layer(x)) or not len(layer.values)


def test_state_goes_into_the_parameter_that_the_optimiser_holds() -> None:
    layer, parameter = trained(), None
    other = SparseLinear.from_linear(*linear(), trainable=True)
    parameter = other.values
    other.load_state_dict(layer.state_dict())
    assert other.values is parameter


def test_state_of_another_pattern_and_of_a_frozen_layer() -> None:
    layer = SparseLinear.from_linear(*linear(Unstructured(0.5)), trainable=True)
    for state in (trained().state_dict(), SparseLinear.from_linear(linear()[0]).state_dict()):
        layer.load_state_dict(state)
        x, seed = inputs(K)
        layer(x).backward(seed)
        mask = layer.to_linear().weight != 0
        assert torch.equal(mask, linear()[1])
        torch.testing.assert_close(layer.values.grad, (seed.T @ x)[mask], rtol=1e-4, atol=1e-4)
        layer.zero_grad()
    with pytest.raises(RuntimeError, match="values"):
        SparseLinear.from_linear(linear()[0]).load_state_dict(trained().state_dict())


def test_frozen_and_thawed() -> None:
    layer = trained()
    values, x = layer.values.detach().clone(), inputs(K)[0]
    y = layer(x)
    assert layer.train_values_(False) is layer
    assert not layer.trainable
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert list(layer.state_dict()) == ["bias", "packed"]
    assert torch.equal(layer(x), y)
    layer.train_values_().train_values_()
    assert torch.equal(layer.values, values)
    assert torch.equal(layer(x), y)
    assert "trainable=True" in repr(layer)


def test_gradients_that_nobody_wants() -> None:
    layer = trained()
    x, seed = inputs(K)
    layer.values.requires_grad_(False)
    x.requires_grad_()
    layer(x).backward(seed)
    torch.testing.assert_close(x.grad, seed @ layer.to_linear().weight, rtol=1e-4, atol=1e-4)
    assert layer.values.grad is None
    dense = linear()[0]
    dense.weight.requires_grad_(False)
    assert not SparseLinear.from_linear(dense, trainable=True).values.requires_grad


def test_what_cannot_be_trained_is_refused() -> None:
    dense, mask = linear()
    for dtype, format in (("bfloat16", "auto"), ("int8", "auto"), ("int8", "dot")):
        with pytest.raises(ValueError, match=f"packed: expected float32 values to train on, got {dtype}"):
            SparseLinear.from_linear(dense, mask, dtype, format, trainable=True)
    with pytest.raises(ValueError, match="mask: expected the shape of w"):
        SparseLinear.from_linear(dense, mask[1:], trainable=True)
    layer = SparseLinear.from_linear(dense, dtype="bfloat16")
    with pytest.raises(ValueError, match="packed: expected float32 values"):
        layer.train_values_()
    assert not layer.trainable


def test_second_derivatives_are_refused() -> None:
    layer = trained()
    (first,) = torch.autograd.grad((layer(inputs(K)[0]) ** 2).sum(), layer.values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_checkpointing() -> None:
    layer = trained()
    x, seed = inputs(K)
    layer(x).backward(seed)
    plain = layer.values.grad.clone()
    layer.zero_grad()
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).backward(seed)
    assert torch.equal(layer.values.grad, plain)


def test_saved_and_loaded_as_a_packed_layer(tmp_path: Path) -> None:
    model = nn.Sequential(trained())
    prunus.save(model, tmp_path / "model.safetensors")
    other = nn.Sequential(nn.Linear(K, N))
    prunus.load(other, tmp_path / "model.safetensors")
    assert not other[0].trainable
    assert torch.equal(other(inputs(K)[0]), model(inputs(K)[0]))
    prunus.to_dense_(model)
    assert torch.equal(model[0].weight, other[0].to_linear().weight)


def pruned_mlp() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(K, 96), nn.GELU(), nn.Linear(96, N))
    prunus.prune_(model, Unstructured(0.9))
    return model


def test_accelerated_to_train() -> None:
    model = pruned_mlp()
    dense = copy.deepcopy(model)
    dense[2].weight.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    report = prunus.accelerate_(model, inputs(K)[0], min_speedup=0.0, trainable=True)
    assert [row["converted"] for row in report.rows] == [True, True]
    assert report.summary["fused"] == []
    assert model[0].trainable
    assert not model[2].values.requires_grad
    assert model[0].values.grad is None
    x, target = inputs(K)
    for one in (dense, model):
        F.mse_loss(one(x), target).backward()
    mask = dense[0].weight != 0
    torch.testing.assert_close(model[0].values.grad, dense[0].weight.grad[mask], rtol=1e-4, atol=1e-5)
    assert model[2].values.grad is None


def test_layers_that_are_slower_to_train_stay_dense() -> None:
    model = pruned_mlp()
    report = prunus.accelerate_(model, inputs(K)[0], min_speedup=1e6, trainable=True)
    assert not any(row["converted"] for row in report.rows)
    assert all(row["dense_ms"] > 0 and row["sparse_ms"] > 0 for row in report.rows)
    assert all(p.grad is None for p in model.parameters())


def test_what_is_trained_is_float32() -> None:
    with pytest.raises(ValueError, match="precision: expected float32 for trainable layers, got 'int8'"):
        prunus.accelerate_(pruned_mlp(), inputs(K)[0], "int8", trainable=True)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_weight_has_the_values_of_now(compiled):
    layer = prunus.SparseLinear.from_linear(nn.Linear(6, 4, bias=False), trainable=True)
    read = lambda: layer.weight * 1  # noqa: E731
    if compiled:
        torch._dynamo.reset()
        read = torch.compile(read, backend="aot_eager")
    with torch.no_grad():
        before = read().clone()
        layer.values.mul_(2)
        assert torch.equal(read(), 2 * before)
