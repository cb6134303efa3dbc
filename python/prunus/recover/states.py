"""Making a model ready to train, and putting everything but its weights back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from prunus.calibration import untouched
from prunus.training import ZeroKeeper, keep_zeros

__all__ = ["SHORT", "keep_masks", "ready_to_train"]

SHORT = (torch.bfloat16, torch.float16)


@contextmanager
def ready_to_train(
    model: nn.Module, teacher: nn.Module, parameters: Mapping[str, nn.Parameter], checkpointing: bool = False
) -> Iterator[None]:
    """Gradients for `parameters` alone, no dropout, no caches, weights in float32; afterwards modes, flags,
    gradients and dtypes are as before.

    checkpointing: also the model's own gradient checkpointing; ValueError when it offers none.
    """
    with ExitStack() as stack:
        stack.enter_context(untouched(teacher))
        stack.enter_context(untouched(model))
        stack.enter_context(_gradients_of(model, parameters))
        stack.enter_context(_wide(model))
        if checkpointing:
            stack.enter_context(_checkpointing(model))
        yield


@contextmanager
def _gradients_of(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    chosen = {id(p) for p in parameters.values()}
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.grad = None
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, wanted, grad in before:
            parameter.grad = grad
            parameter.requires_grad_(wanted)


@contextmanager
def _wide(model: nn.Module) -> Iterator[None]:
    """16-bit weights as float32 meanwhile: an optimiser's small steps would be rounded away."""
    short: list[tuple[Any, torch.dtype]] = [
        (t, t.dtype) for t in (*model.parameters(), *model.buffers()) if t.dtype in SHORT
    ]
    try:
        for tensor, _ in short:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in short:
            tensor.data = tensor.data.to(dtype)


@contextmanager
def _checkpointing(model: Any) -> Iterator[None]:
    """`transformers` checkpoints the modules that have a flag for it, and only while they are in training
    mode: they alone are, so that nothing drops out."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        kind = type(model).__name__
        raise ValueError(f"gradient_checkpointing: expected a model that offers it, got {kind}")
    # The second name is the older one: `transformers` 5 warns of it.
    names = ("activation_checkpointing", "gradient_checkpointing")
    name = next(name for name in names if hasattr(model, f"{name}_enable"))
    getattr(model, f"{name}_enable")({"use_reentrant": False})
    try:
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.training = True
        yield
    finally:
        getattr(model, f"{name}_disable")()


@contextmanager
def keep_masks(
    model: nn.Module, optimizer: torch.optim.Optimizer, inside: str = ""
) -> Iterator[ZeroKeeper | None]:
    """Zeros stay zero in every Linear and Conv1D (of the block `inside`), None where there are none."""
    try:
        keeper = keep_zeros(model, optimizer, lambda module, name: name.startswith(inside))
    except ValueError:  # nothing is zero: nothing to keep
        yield None
        return
    with keeper:
        yield keeper
