"""Running a model on example inputs without leaving a trace on it."""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections import UserDict
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

    def to(self, device: torch.device | None) -> Batch:
        """The same arguments, their tensors on `device`."""
        return Batch(moved(self.args, device), moved(self.kwargs, device))


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


def device_of(model: nn.Module) -> torch.device | None:
    """Where a model wants its inputs: the device of its first tensor that has memory; None: it has none.

    >>> device_of(nn.Linear(2, 2)), device_of(nn.ReLU())
    (device(type='cpu'), None)
    """
    tensors = (t for one in (model.parameters(), model.buffers()) for t in one)
    return next((t.device for t in tensors if t.device.type != "meta"), None)


def device_word(device: torch.device | None) -> str:
    """What a report calls a device; of a GPU with its name.

    >>> device_word(torch.device("cpu"))
    'cpu'
    """
    if device is None or device.type == "cpu":
        return "cpu"
    known = device.type == "cuda" and torch.cuda.is_available()
    return f"{device}, {torch.cuda.get_device_name(device)}" if known else str(device)


def devices_of(model: nn.Module) -> list[str]:
    """The devices of all parameters, as words, each once."""
    return sorted({str(parameter.device) for parameter in model.parameters()})


def moved(value: Any, device: torch.device | None) -> Any:
    """What holds tensors, with all of them on `device`: itself where they are; else a new one, so that the
    caller's stays as it is. Tensors, mappings, tuples and lists; anything else, and None, is left alone.

    >>> batch = {"x": torch.ones(2)}
    >>> moved(batch, torch.device("cpu")) is batch
    True
    """
    if isinstance(value, Tensor):
        return value if device is None or value.device == device else value.to(device)
    if isinstance(value, Mapping):
        entries = {key: moved(entry, device) for key, entry in value.items()}
        if all(entries[key] is entry for key, entry in value.items()):
            return value
        if not isinstance(value, UserDict):
            return entries
        made = copy.copy(value)  # a BatchEncoding has attributes too
        made.data = entries
        return made
    if isinstance(value, (tuple, list)):
        items = [moved(item, device) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


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
