"""Running a model on example inputs without leaving a trace on it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Arguments of one forward call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, model: nn.Module) -> Any:
        """The output of one call."""
        if self.kwargs and not self.args:
            return call_with(model, self.kwargs)
        return model(*self.args, **self.kwargs)


def call_with(model: nn.Module, named: Mapping[str, Any]) -> Any:
    """Call a model with named inputs: as keywords, or as one dictionary where its forward wants that
    (sentence-transformers; it gets one of its own, which it writes to)."""
    forward = model.forward
    if _takes_dictionary(getattr(forward, "__func__", forward)):
        return model(dict(named))
    return model(**named)


@functools.cache
def _takes_dictionary(forward: Callable[..., Any]) -> bool:
    """Whether the one argument that it must have is a dictionary, by its annotation."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # of torch.jit, of C
        return False
    needed = [
        p
        for p in parameters
        if p.name != "self" and p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    if len(needed) != 1:
        return False
    kind = needed[0].annotation
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return re.match(r"(\w+\.)*(dict|Dict|Mapping)\b", text) is not None


def as_batches(inputs: Any, argument: str) -> list[Batch]:
    """A tensor, tuple (positional), mapping (keywords; a BatchEncoding too), or a list of such, as batches.

    Raises TypeError for anything else and ValueError for an empty list.
    """
    if isinstance(inputs, list):
        if not inputs:
            raise ValueError(f"{argument}: expected at least one batch, got an empty list")
        return [_as_batch(item, f"{argument}[{i}]") for i, item in enumerate(inputs)]
    return [_as_batch(inputs, argument)]


def _as_batch(inputs: Any, argument: str) -> Batch:
    if isinstance(inputs, Batch):
        return inputs
    if isinstance(inputs, Tensor):
        return Batch((inputs,), {})
    if isinstance(inputs, tuple):
        return Batch(inputs, {})
    if isinstance(inputs, Mapping):
        return Batch((), {str(key): value for key, value in inputs.items()})
    kind = type(inputs).__name__
    raise TypeError(f"{argument}: expected a tensor, a tuple, a dict or a list of such batches, got {kind}")


def check_model(model: Any, argument: str = "model") -> None:
    """Raises TypeError unless `model` is a torch.nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{argument}: expected a torch.nn.Module, got {type(model).__name__}")


def hooked(module: Any) -> bool:
    """Whether something hangs on it that another module in its place would not have."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(module)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many of torch's threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module gets its own training flag back."""
    flags = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module gets its own training flag back."""
    # Not inference_mode: models cache tensors (rotary tables) that must stay usable.
    with evaluation_mode(*models), torch.no_grad():
        yield


def output_tensors(output: Any, name: str = "") -> dict[str, Tensor]:
    """The floating-point tensors of a model's output by name; nested mappings and sequences are flattened."""
    if isinstance(output, Tensor):
        return {name or "output": output} if output.is_floating_point() else {}
    if isinstance(output, Mapping):
        parts = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, (tuple, list)):
        parts = [(str(i), value) for i, value in enumerate(output)]
    else:
        return {}
    found: dict[str, Tensor] = {}
    for key, value in parts:
        found |= output_tensors(value, f"{name}.{key}" if name else key)
    return found


def module_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers; what is shared counts once, a packed weight at its real size."""
    sizes = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        # The storage tells shared tensors apart; on the meta device there is none, there the object does.
        key = (tensor.data_ptr() or id(tensor), tensor.dtype, tuple(tensor.shape))
        sizes[key] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())
