"""prunus::linear_add, gated and linear_many: against dense torch, opcheck, gradients, compile, and errors."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import prunus
from prunus.ops.torch_ops import buffer_tensor


def integers(*shape: int, seed: int) -> Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def pruned(n: int, k: int, seed: int) -> Tensor:
    return integers(n, k, seed=seed) * (torch.rand(n, k, generator=torch.Generator().manual_seed(seed)) > 0.7)


@pytest.mark.parametrize("m", [0, 1, 3, 8, 65])
def test_equal_dense(m: int) -> None:
    gate, up, x = pruned(33, 50, 1), pruned(33, 50, 2), integers(m, 50, seed=3)
    a, b, residual = integers(33, seed=4), integers(33, seed=5), integers(m, 33, seed=6)
    p, q = prunus.pack(gate), prunus.pack(up)
    assert torch.equal(prunus.linear(x, p, a, "relu", residual), F.relu(F.linear(x, gate, a)) + residual)
    expected = F.relu(F.linear(x, gate, a)) * F.linear(x, up, b)
    assert torch.equal(prunus.gated(x, p, q, a, b, "relu"), expected)
    assert torch.equal(prunus.gated(x, buffer_tensor(p), buffer_tensor(q), a, b, "relu"), expected)
    torch.testing.assert_close(prunus.gated(x, p, q), F.silu(F.linear(x, gate)) * F.linear(x, up))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_opcheck(dtype: torch.dtype) -> None:
    p, q = (buffer_tensor(prunus.pack(pruned(12, 20, seed))) for seed in (1, 2))
    x, residual = integers(2, 3, 20, seed=3).to(dtype), integers(2, 3, 12, seed=4).to(dtype)
    bias = integers(12, seed=5)
    for given in (None, bias):
        torch.library.opcheck(torch.ops.prunus.linear_add.default, (x, p, given, residual, 12, 1))
        torch.library.opcheck(torch.ops.prunus.gated.default, (x, p, q, given, given, 12, 4))
        for count in (1, 3, 5):
            weights, biases = [p, q, p, q, p][:count], [given, None, given, None, given][:count]
            torch.library.opcheck(torch.ops.prunus.linear_many.default, (x, weights, biases, [12] * count))
    strided = residual.transpose(0, 1).contiguous().transpose(0, 1)
    torch.library.opcheck(torch.ops.prunus.linear_add.default, (x, p, None, strided, 12, 0))


def test_gradients() -> None:
    gate, up = pruned(7, 9, 1).double(), pruned(7, 9, 2).double()
    p, q = prunus.pack(gate.float()), prunus.pack(up.float())
    names = {"x": (4, 9), "a": (7,), "b": (7,), "residual": (4, 7)}
    ours = {n: integers(*s, seed=i).requires_grad_() for i, (n, s) in enumerate(names.items())}
    dense = {n: t.detach().double().requires_grad_() for n, t in ours.items()}
    weight = integers(4, 7, seed=9)

    y = prunus.gated(ours["x"], p, q, ours["a"], ours["b"])
    y = y + prunus.linear(ours["x"], p, ours["a"], "gelu", ours["residual"])
    (y * weight).sum().backward()
    d = F.silu(F.linear(dense["x"], gate, dense["a"])) * F.linear(dense["x"], up, dense["b"])
    d = d + F.gelu(F.linear(dense["x"], gate, dense["a"])) + dense["residual"]
    (d * weight).sum().backward()
    torch.testing.assert_close(y.double(), d, rtol=1e-4, atol=1e-4)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor.grad.double(), dense[name].grad, rtol=1e-4, atol=1e-3)


def test_compile() -> None:
    p, q = (prunus.pack(pruned(12, 20, seed)) for seed in (1, 2))
    x, residual = integers(5, 20, seed=3), integers(5, 12, seed=4)

    def f(x: Tensor, residual: Tensor) -> Tensor:
        return prunus.gated(x, p, q) + prunus.linear(x, p, residual=residual)

    compiled = torch.compile(f, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, residual), f(x, residual))


def test_the_op_refuses_gradients() -> None:
    p = buffer_tensor(prunus.pack(pruned(12, 20, 1)))
    x, residual, bias = integers(5, 20, seed=3), integers(5, 12, seed=4), integers(12, seed=5)
    grad = [t.clone().requires_grad_() for t in (x, residual, bias)]
    for name, call in {
        "x": lambda: torch.ops.prunus.gated.default(grad[0], p, p, None, None, 12, 4),
        "gate_bias": lambda: torch.ops.prunus.gated.default(x, p, p, grad[2], None, 12, 4),
        "up_bias": lambda: torch.ops.prunus.gated.default(x, p, p, None, grad[2], 12, 4),
        "residual": lambda: torch.ops.prunus.linear_add(x, p, None, grad[1], 12, 0),
        "biases[1]": lambda: torch.ops.prunus.linear_many(x, [p] * 3, [None, grad[2], None], [12] * 3),
    }.items():
        with pytest.raises(RuntimeError, match=re.escape(name) + ": expected a tensor without gradient"):
            call()


P, OTHER = prunus.pack(torch.eye(6, 10)), prunus.pack(torch.eye(5, 10))
X = torch.ones(2, 10)
WRONG = [
    ("residual: expected (2, 6), got (2, 5)", lambda x, t: prunus.linear(x, P, residual=t(torch.ones(2, 5)))),
    ("residual: expected (2, 6), got (6,)", lambda x, t: prunus.linear(x, P, residual=t(torch.ones(6)))),
    (
        "residual: expected float32, got float16",
        lambda x, t: prunus.linear(x, P, residual=t(torch.ones(2, 6).half())),
    ),
    ("up: expected the shape of gate, (6, 10), got (5, 10)", lambda x, t: prunus.gated(x, P, OTHER)),
    ("x: expected (..., 10), got (2, 9)", lambda x, t: prunus.gated(x[:, :9], P, P)),
    ("gate_bias: expected (6,), got (5,)", lambda x, t: prunus.gated(x, P, P, t(torch.ones(5)))),
    ("up_bias: expected (6,), got (5,)", lambda x, t: prunus.gated(x, P, P, None, t(torch.ones(5)))),
    ("activation: expected one of None, relu", lambda x, t: prunus.gated(x, P, P, activation="tanh")),
]


@pytest.mark.parametrize(("sentence", "call"), WRONG, ids=[s[:40] for s, _ in WRONG])
def test_bad_operands_are_the_same_sentence_for_numpy_and_torch(sentence, call) -> None:
    for x, kind in ((X, lambda t: t), (X.numpy(), Tensor.numpy)):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            call(x, kind)


def test_many_are_what_each_is_alone() -> None:
    x = integers(3, 20, seed=3)
    packed = [buffer_tensor(prunus.pack(pruned(n, 20, n))) for n in (12, 1, 7, 30, 12)]
    biases = [None if n == 7 else integers(n, seed=n) for n in (12, 1, 7, 30, 12)]
    got = torch.ops.prunus.linear_many(x, packed, biases, [12, 1, 7, 30, 12])
    assert len(got) == 5
    for p, bias, y in zip(packed, biases, got, strict=True):
        assert torch.equal(y, prunus.linear(x, p, bias))


def test_many_under_autocast() -> None:
    x, p = integers(3, 20, seed=3), buffer_tensor(prunus.pack(pruned(12, 20, 1)))
    with torch.autocast("cpu"):
        got = torch.ops.prunus.linear_many(x, [p, p], [None, integers(12, seed=5)], [12, 12])
    assert [y.dtype for y in got] == [torch.bfloat16] * 2


def test_bad_operands_of_many() -> None:
    p, other = buffer_tensor(P), buffer_tensor(prunus.pack(torch.eye(6, 9)))
    op, none = torch.ops.prunus.linear_many, [None] * 3
    for sentence, call in {
        "x: expected (..., 9), got (2, 10)": lambda: op(X, [p, other, p], none, [6, 6, 6]),
        "out_features: expected 6, got 5": lambda: op(X, [p, p, p], none, [6, 6, 5]),
        "packed[2]: expected uint8, got float32": lambda: op(X, [p, p, X[0]], none, [6, 6, 6]),
        "biases[1]: expected (6,), got (5,)": lambda: op(X, [p, p], [None, torch.ones(5)], [6, 6]),
        "biases: expected 3, one for each of packed, got 2": lambda: op(X, [p] * 3, none[:2], [6, 6, 6]),
        "out_features: expected 3, one for each of packed, got 1": lambda: op(X, [p] * 3, none, [6]),
        "packed: expected at least one weight, got none": lambda: op(X, [], [], []),
    }.items():
        with pytest.raises((ValueError, RuntimeError), match=re.escape(sentence)):
            call()


def test_bad_kinds() -> None:
    for call, sentence in {
        lambda: prunus.gated(X, P, None): "up: expected a PackedWeight or its buffer",
        lambda: prunus.gated(X.numpy(), P, None): "up: expected a PackedWeight, got NoneType",
        lambda: prunus.linear(X, P, residual=np.ones((2, 6))): "residual: expected a torch tensor like x",
        lambda: prunus.linear(X.numpy(), P, residual=X): "residual: expected a numpy array like x",
        lambda: prunus.gated([1.0], P, P): "x: expected a numpy array or a torch tensor, got list",
    }.items():
        with pytest.raises(TypeError, match=re.escape(sentence)):
            call()
