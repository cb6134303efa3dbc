"""Every wrong operand is refused with a sentence, the same from numpy and torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import prunus
from prunus.ops.torch_ops import buffer_tensor

OP = torch.ops.prunus.linear
NO_BACKWARD = "expected a tensor without gradient"


@pytest.fixture
def p() -> prunus.PackedWeight:
    return prunus.pack(torch.eye(6, 10))


@pytest.mark.parametrize(
    ("x", "bias", "sentence"),
    [
        (torch.ones(3, 9), None, "x: expected (..., 10), got (3, 9)"),
        (torch.ones(2, 10, 3), None, "x: expected (..., 10), got (2, 10, 3)"),
        (torch.tensor(1.0), None, "x: expected (..., 10), got ()"),
        (torch.ones(0), None, "x: expected (..., 10), got (0,)"),
        (
            torch.ones(3, 10, dtype=torch.float64),
            None,
            "x: expected float32, bfloat16 or float16, got float64",
        ),
        (torch.ones(3, 10, dtype=torch.int64), None, "x: expected float32, bfloat16 or float16, got int64"),
        (torch.ones(3, 10, dtype=torch.bool), None, "x: expected float32, bfloat16 or float16, got bool"),
        (torch.ones(3, 10), torch.ones(5), "bias: expected (6,), got (5,)"),
        (torch.ones(3, 10), torch.ones(1), "bias: expected (6,), got (1,)"),
        (torch.ones(3, 10), torch.ones(1, 6), "bias: expected (6,), got (1, 6)"),
        (torch.ones(3, 10), torch.ones(6, dtype=torch.float16), "bias: expected float32, got float16"),
    ],
)
def test_shapes_and_dtypes(
    p: prunus.PackedWeight, x: torch.Tensor, bias: torch.Tensor | None, sentence: str
) -> None:
    numpy_bias = None if bias is None else bias.numpy()
    calls: list[Callable[[], object]] = [
        lambda: prunus.linear(x, p, bias),
        lambda: prunus.linear(x.numpy(), p, numpy_bias),  # type: ignore[call-overload]
        lambda: OP(x, buffer_tensor(p), bias, 6, 0),
    ]
    for call in calls:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            call()
        assert str(error.value) == sentence


@pytest.mark.parametrize("x", [np.ones((3, 10), np.float32), torch.ones(3, 10)], ids=["numpy", "torch"])
@pytest.mark.parametrize("activation", ["tanh", 1, ["relu"]], ids=str)
def test_unknown_activation(p: prunus.PackedWeight, x: object, activation: object) -> None:
    with pytest.raises(
        ValueError, match=r"activation: expected one of None, relu, gelu, gelu_tanh, silu, got "
    ):
        prunus.linear(x, p, activation=activation)  # type: ignore[call-overload]


def test_foreign_byte_order(p: prunus.PackedWeight) -> None:
    with pytest.raises(ValueError, match="x: expected float32, bfloat16 or float16, got >f4"):
        prunus.linear(np.ones((3, 10), ">f4"), p)


def test_kinds(p: prunus.PackedWeight) -> None:
    x, array = torch.ones(3, 10), np.ones((3, 10), np.float32)
    with pytest.raises(TypeError, match="x: expected a numpy array or a torch tensor, got list"):
        prunus.linear([[1.0] * 10], p)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="p: expected a PackedWeight, got ndarray"):
        prunus.linear(array, p.buffer)  # type: ignore[call-overload]
    with pytest.raises(
        TypeError, match="p: expected a PackedWeight or its buffer as a torch tensor, got ndar"
    ):
        prunus.linear(x, p.buffer)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="bias: expected a torch tensor like x, got ndarray"):
        prunus.linear(x, p, np.ones(6, np.float32))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="bias: expected a numpy array like x, got Tensor"):
        prunus.linear(array, p, torch.ones(6))  # type: ignore[call-overload]


def test_another_device(p: prunus.PackedWeight) -> None:
    with pytest.raises(ValueError, match="x: expected a tensor on the CPU or CUDA, got one on meta"):
        prunus.linear(torch.ones(3, 10, device="meta"), p)


def test_buffers(p: prunus.PackedWeight) -> None:
    x, packed = torch.ones(3, 10), buffer_tensor(p)
    wrong_dtype = r"p: expected a contiguous 1-D uint8 tensor, got float32 \(3,\) on cpu"
    with pytest.raises(ValueError, match=wrong_dtype):
        prunus.linear(x, torch.ones(3))
    with pytest.raises(prunus.FormatError, match=r"packed\.bytes"):
        prunus.linear(x, packed[:70])
    with pytest.raises(prunus.FormatError, match=r"packed\."):
        prunus.linear(x, torch.zeros(100, dtype=torch.uint8))


def test_the_op_itself_checks_the_buffer(p: prunus.PackedWeight) -> None:
    x, packed = torch.ones(3, 10), buffer_tensor(p)
    with pytest.raises(ValueError, match="out_features: expected 6, got 7"):
        OP(x, packed, None, 7, 0)
    with pytest.raises(ValueError, match=r"activation: expected 0\.\.4, got 5"):
        OP(x, packed, None, 6, 5)
    with pytest.raises(ValueError, match=r"activation: expected 0\.\.4, got -1"):
        OP(x, packed, None, 6, -1)
    with pytest.raises(ValueError, match="packed: expected uint8, got int8"):
        OP(x, packed.view(torch.int8), None, 6, 0)
    with pytest.raises(ValueError, match=r"packed: expected one contiguous dimension, got \(1, "):
        OP(x, packed[None], None, 6, 0)
    doubled = packed.repeat_interleave(2)[::2]
    assert torch.equal(doubled, packed)
    with pytest.raises(ValueError, match="packed: expected one contiguous dimension"):
        OP(x, doubled, None, 6, 0)
    for size in (0, 1, 63, 64, len(packed) - 1):
        with pytest.raises(ValueError, match=r"packed\."):
            OP(x, packed[:size].clone(), None, 6, 0)
    for byte in range(64):
        damaged = packed.clone()
        damaged[byte] ^= 1
        with pytest.raises(ValueError, match=r"packed\."):
            OP(x, damaged, None, 6, 0)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("which", ["x", "computed x", "bias"])
def test_gradients_are_refused(p: prunus.PackedWeight, which: str, compiled: bool) -> None:
    x, bias = torch.ones(3, 10), torch.ones(6)
    if which == "bias":
        bias.requires_grad_()
    else:
        x.requires_grad_()

    def call(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return OP(x * 2 if which == "computed x" else x, buffer_tensor(p), bias, 6, 0)

    if compiled:
        call = torch.compile(call, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=f"{which.split()[-1]}: {NO_BACKWARD}"):
        call(x, bias)
    with torch.no_grad():
        assert not call(x, bias).requires_grad
    with torch.inference_mode():
        assert not call(x, bias).requires_grad
    assert not call(x.detach(), bias.detach()).requires_grad


def test_gradients_are_refused_by_a_graph_compiled_without(p: prunus.PackedWeight) -> None:
    call = torch.compile(lambda x: OP(x, buffer_tensor(p), None, 6, 0), fullgraph=True, backend="aot_eager")
    call(torch.ones(3, 10))
    with pytest.raises(RuntimeError, match=f"x: {NO_BACKWARD}"):
        call(torch.ones(3, 10, requires_grad=True))


def test_gradients_are_refused_inside_a_dispatch_mode(p: prunus.PackedWeight) -> None:
    x = torch.ones(3, 10, requires_grad=True) * 2
    with FlopCounterMode(display=False), pytest.raises(RuntimeError, match=f"x: {NO_BACKWARD}"):
        OP(x, buffer_tensor(p), None, 6, 0)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.func.grad(lambda x: f(x).sum()),
        lambda f: torch.func.vmap(f),
        lambda f: lambda x: torch.func.jvp(f, (x,), (x,)),
    ],
    ids=["grad", "vmap", "jvp"],
)
def test_function_transforms_are_refused(p: prunus.PackedWeight, transform: Callable[..., Any]) -> None:
    """torch would loop (vmap) or return zeros without a word (grad, jvp)."""
    with pytest.raises(
        RuntimeError, match=r"x: expected a plain tensor, got one inside a torch\.func transform"
    ):
        transform(lambda x: OP(x, buffer_tensor(p), None, 6, 0))(torch.ones(3, 10))
