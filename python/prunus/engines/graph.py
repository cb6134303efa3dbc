"""A model as other engines take it: named tensors in, named tensors out, some axes of any size."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prunus._tools.running import Batch, evaluating, output_tensors
from prunus.nn import to_dense_

__all__ = [
    "Flat",
    "Graph",
    "Tensors",
    "cannot_hold",
    "dense_copy",
    "make_graph",
    "named_inputs",
    "plain",
    "tracing",
]

Tensors = dict[str, Tensor]
#: Of an exporter's reason: some list every operator that they know.
MOST_WORDS = 400
#: Input name -> axis -> the name of a size that is free.
Axes = dict[str, dict[int, str]]


class Flat(nn.Module):
    """A model behind a forward of tensors: tensors by position in, a tuple of tensors out.

    model: in evaluation mode. batch: arguments of one call; its tensors are the inputs, in order, the rest
    of it are constants.

    >>> flat = Flat(nn.Linear(2, 3), Batch((torch.ones(1, 2),), {}))
    >>> flat.inputs, flat.outputs
    (['input'], ['output'])
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model = model
        self.batch = batch
        self.inputs = list(named_inputs(model, batch))
        with evaluating(model):
            found = output_tensors(batch.run(model))
        if not found:
            raise ValueError("model: expected a model with floating-point outputs, got none")
        self.keys = list(found)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs; one that an input has too gets a longer one."""
        return [f"{key}_out" if key in self.inputs else key for key in self.keys]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = output_tensors(_with_tensors(self.batch, tensors).run(self.model))
        return tuple(found[key] for key in self.keys)

    def answer(self, inputs: Tensors) -> Tensors:
        """By name."""
        with torch.no_grad():
            found = self(*(inputs[name] for name in self.inputs))
        return dict(zip(self.outputs, found, strict=True))


@dataclass(frozen=True)
class Graph:
    """What an engine needs to take a model over.

    example: what it is traced with; no free axis has the size 1 there. axes: which sizes of the inputs are
    free, by name; output_axes: those of the outputs. probes: inputs to check answers on; the first are those
    that were given.
    """

    flat: Flat
    example: Tensors
    axes: Axes
    output_axes: Axes
    probes: list[Tensors] = field(repr=False)

    @property
    def weight_bytes(self) -> int:
        """Of the weights that the file will hold."""
        tensors = {t.data_ptr(): t for t in (*self.flat.parameters(), *self.flat.buffers())}
        return sum(t.numel() * t.element_size() for t in tensors.values())


def dense_copy(model: nn.Module) -> nn.Module:
    """A float32 copy on the CPU in evaluation mode, with ordinary layers and without a key/value cache.

    Raises ValueError for weights on the meta device, and where a packed layer has no dense form.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type == "meta":
            raise ValueError(f"model: expected weights, got {name} on the meta device: load them first")
    made = copy.deepcopy(model)
    to_dense_(made)
    made = made.to("cpu").float().eval().requires_grad_(False)
    for module in made.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "use_cache", None):
            config.use_cache = False
    return made


def make_graph(model: nn.Module, batches: list[Batch]) -> Graph:
    """The graph of a model of `dense_copy`, with the axes found by trying.

    An axis is free when the model itself runs with another size there: the first of every tensor ("batch"),
    and the second ("length", in groups of equal size).

    Raises TypeError and ValueError where the inputs have tensors inside of lists or dictionaries, have no
    tensors, differ in their names, or where the outputs are no floating-point tensors.
    """
    with evaluating(model):
        flat = Flat(model, plain(batches[0])).eval()
        given = [_inputs_like(flat, model, plain(batch), i) for i, batch in enumerate(batches)]
        sizes = _free_sizes(flat, given[0])
        probes = [*given]
        if sizes:
            probes.append(_resized(given[0], sizes))
        batch = next((key for key in sizes if key[0] == 0 and key[1] > 1), None)
        if batch is not None:
            probes.append(_resized(given[0], {batch: 1}))
        example = _resized(given[0], {key: size for key, size in sizes.items() if key[1] == 1})
        axes = _axes(given[0], sizes)
        return Graph(flat, example, axes, _output_axes(flat, example, axes), probes)


def named_inputs(model: nn.Module, batch: Batch) -> Tensors:
    """The tensors of a batch by the names of the model's arguments.

    Raises ValueError without tensors, TypeError for tensors inside of other values.
    """
    try:
        names = list(inspect.signature(model.forward).bind_partial(*batch.args).arguments)
    except (TypeError, ValueError):
        names = []
    if len(names) != len(batch.args):  # *args
        names = [f"input_{i}" for i in range(len(batch.args))]
    found = {}
    for name, value in (*zip(names, batch.args, strict=True), *batch.kwargs.items()):
        if isinstance(value, Tensor):
            found[name] = value
        elif _holds_tensors(value):
            kind = type(value).__name__
            raise TypeError(f"example_inputs: expected a tensor for {name}, got a {kind} with tensors in it")
    if not found:
        raise ValueError("example_inputs: expected at least one tensor, got none")
    return found


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(_holds_tensors, value)))


def _with_tensors(batch: Batch, tensors: Iterable[Tensor]) -> Batch:
    """The batch with other tensors in the places of its own."""
    given = iter(tensors)
    args = tuple(next(given) if isinstance(v, Tensor) else v for v in batch.args)
    kwargs = {k: next(given) if isinstance(v, Tensor) else v for k, v in batch.kwargs.items()}
    return Batch(args, kwargs)


def plain(batch: Batch) -> Batch:
    """On the CPU, floating-point tensors as float32."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().cpu()
        return value.float() if value.is_floating_point() else value

    return Batch(tuple(map(one, batch.args)), {k: one(v) for k, v in batch.kwargs.items()})


def _inputs_like(flat: Flat, model: nn.Module, batch: Batch, i: int) -> Tensors:
    found = named_inputs(model, batch)
    if list(found) != flat.inputs:
        raise ValueError(f"example_inputs[{i}]: expected the tensors {flat.inputs}, got {list(found)}")
    return found


# (axis, size) of a group of axes -> another size that the model takes.
Sizes = dict[tuple[int, int], int]


def _free_sizes(flat: Flat, given: Tensors) -> Sizes:
    shapes = [tuple(tensor.shape) for tensor in given.values()]
    batch = next((shape[0] for shape in shapes if shape), 0)
    groups = [(0, batch)] if batch else []
    groups += dict.fromkeys((1, shape[1]) for shape in shapes if len(shape) > 1 and shape[1])
    sizes: Sizes = {}
    for key in groups:
        other = _another(flat, given, sizes, key)
        if other is not None:
            sizes[key] = other
    return sizes


def _another(flat: Flat, inputs: Tensors, sizes: Sizes, key: tuple[int, int]) -> int | None:
    """Another size that the model takes there, beside `sizes`; None where it takes no other."""
    # Longer first: that keeps every token, so that no text is all padding.
    step = 1 + key[1] // 3
    for other in (key[1] + step, key[1] - step):
        if other > 0 and _runs(flat, _resized(inputs, {**sizes, key: other})):
            return other
    return None


def _runs(flat: Flat, inputs: Tensors) -> bool:
    try:
        flat.answer(inputs)
    except Exception:  # whatever a model says to a size that it does not take
        return False
    return True


def _resized(inputs: Tensors, sizes: Mapping[tuple[int, int], int]) -> Tensors:
    """The axes of those sizes longer, by beginning again, or shorter."""
    made = {}
    for name, tensor in inputs.items():
        for axis, size in enumerate(tensor.shape[:2]):
            other = sizes.get((axis, size))
            if other is not None:
                tensor = tensor.index_select(axis, torch.arange(other) % size)
        made[name] = tensor
    return made


def _axes(inputs: Tensors, sizes: Sizes) -> Axes:
    names: dict[tuple[int, int], str] = {}
    for axis, size in sizes:
        same = sum(other == axis for other, _ in names)
        names[axis, size] = ("batch", "length")[axis] + (f"_{same + 1}" if same else "")
    found = {
        name: {a: names[a, size] for a, size in enumerate(tensor.shape[:2]) if (a, size) in names}
        for name, tensor in inputs.items()
    }
    return {name: axes for name, axes in found.items() if axes}


def _output_axes(flat: Flat, example: Tensors, axes: Axes) -> Axes:
    """Which sizes of the outputs follow which free size of the inputs: by trying each."""
    shapes = {name: tensor.shape for name, tensor in flat.answer(example).items()}
    found: Axes = {name: {} for name in shapes}
    for word in dict.fromkeys(word for of in axes.values() for word in of.values()):
        key = next(
            (a, example[name].shape[a]) for name, of in axes.items() for a, w in of.items() if w == word
        )
        other = _another(flat, example, {}, key)
        sizes = {key: other} if other is not None else {}
        for name, tensor in flat.answer(_resized(example, sizes)).items():
            for axis, (before, after) in enumerate(zip(shapes[name], tensor.shape, strict=True)):
                if before != after:
                    found[name][axis] = word
    return {name: of for name, of in found.items() if of}


@contextmanager
def tracing() -> Iterator[None]:
    """What an exporter runs a model in: without the tracer's remarks on constants (every answer is checked at
    another size afterwards), and with functions that exporters lack spelled out."""
    with warnings.catch_warnings(), _SpelledOut():
        warnings.simplefilter("ignore")
        yield


class _SpelledOut(TorchFunctionMode):
    """torch.diff and sums of bools: transformers looks for packed texts so, without an attention_mask."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.diff:
            return _diff(*args, **kwargs)
        if func in (torch.cumsum, Tensor.cumsum) and args and args[0].dtype == torch.bool:
            args = (args[0].long(), *args[1:])
        return func(*args, **kwargs)


def _diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    x = torch.cat([part for part in (prepend, input, append) if part is not None], dim)
    for _ in range(n):
        x = x.narrow(dim, 1, x.shape[dim] - 1) - x.narrow(dim, 0, x.shape[dim] - 1)
    return x


def cannot_hold(engine: str, error: Exception) -> ValueError:
    """What is raised where an exporter gives up.

    >>> cannot_hold("ONNX Runtime", RuntimeError("no operator\\n x"))
    ValueError('model: expected a forward that ONNX Runtime can hold, got one with: no operator x')
    """
    reason = " ".join(str(error).split())[:MOST_WORDS] or type(error).__name__
    return ValueError(f"model: expected a forward that {engine} can hold, got one with: {reason}")
