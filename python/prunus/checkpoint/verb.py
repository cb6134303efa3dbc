"""save and load: a pruned model as one small file, back into a fresh dense model."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunus._tools.interrupts import OneInterrupt
from prunus._tools.running import check_model
from prunus.checkpoint.before import Before
from prunus.checkpoint.file import DTYPES, Saved, SparseEntry, read, write
from prunus.families import is_conv1d, weight_matrix
from prunus.nn import SparseLinear
from prunus.nn.fuse import fuse_
from prunus.nn.fused import Fused
from prunus.nn.shared import SharedLinear
from prunus.packed import PackedWeight, pack
from prunus.prune.fold import folded
from prunus.shrink.geometry import apply_geometry_, geometry

__all__ = ["load", "save"]

ModelT = TypeVar("ModelT", bound=nn.Module)
Path = str | os.PathLike[str]


def save(model: nn.Module, path: Path) -> None:
    """Write a model to a safetensors file: pruned weights as bit mask + kept values, the rest as it is.

    Takes SparseLinear layers and pruned but dense weights alike; masks of `torch.nn.utils.prune` and
    `torch.ao.pruning` are stored as zeros of the weight; tied tensors are stored once. The packed
    form is not in the file: `load` makes it for the machine it runs on. The file is replaced in one step.

    Raises TypeError (not a model, state that is not an ordinary tensor), ValueError (tensors on the meta
    device), OSError.

    >>> import tempfile, torch, prunus
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> prunus.save(model, path)
    """
    check_model(model)
    with folded(model):
        saved = _gather(model)
    write(saved, path)


def load(model: ModelT, path: Path) -> ModelT:
    """Turn a fresh dense model of the same architecture into the saved one, in place, and return it.

    Its weights do not matter (they may be on the meta device). Layers that were SparseLinear become so again,
    packed for this machine; pruned dense layers stay dense; what `shrink_` removed goes here too; what was
    tied is tied; what `fuse_` had fused is fused; tensors get the dtype of the file. With an
    error the model is as it was.

    Raises FormatError naming the field (the file is truncated, corrupt, foreign or of a newer version),
    ValueError (the model does not fit the file), TypeError, OSError.

    >>> import tempfile, torch, prunus
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> prunus.save(torch.nn.Sequential(torch.nn.Linear(8, 4)), path)
    >>> prunus.load(torch.nn.Sequential(torch.nn.Linear(8, 4)), path)
    Sequential(
      (0): Linear(in_features=8, out_features=4, bias=True)
    )
    """
    check_model(model)
    saved = read(path, _most_elements(model))
    with OneInterrupt() as interrupt:
        before = Before(model)
        undo = apply_geometry_(model, saved.geometry)
        try:
            _Plan(model, saved, before).apply()
            fuse_(model, saved.fused)
        except BaseException:
            interrupt.hold()
            before.restore()
            undo()
            raise
    return model


def _most_elements(model: nn.Module) -> int:
    """What a file for this model may hold: a bound for files that were made to fill the memory."""
    sizes = [
        tensor.numel() for tensor in model.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor)
    ]
    packed = [m.in_features * m.out_features for m in model.modules() if isinstance(m, SparseLinear)]
    # Twice, and a little: biases that shrink_ added, tensors that were shared and are not any more.
    return 2 * (sum(sizes) + sum(packed)) + 2**20


def _gather(model: nn.Module) -> Saved:
    """What the file will hold."""
    saved = Saved()
    first: dict[Any, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            raise TypeError(
                f"model: expected ordinary tensors in its state, got {type(tensor).__name__} {name!r}"
            )
        if tensor.device.type == "meta":
            raise ValueError(f"model: expected tensors with data, got {name!r} on the meta device")
        owner_path, _, leaf = name.rpartition(".")
        owner = modules.get(owner_path)
        if isinstance(owner, SparseLinear) and leaf == "values":
            continue  # the packed weight has them
        if isinstance(owner, SparseLinear) and leaf == "packed":
            name = f"{owner_path}.weight" if owner_path else "weight"
            saved.sparse[owner_path] = _entry(owner)
        original = first.setdefault(_memory(tensor, name), name)
        if original != name:
            saved.ties[name] = original
        elif isinstance(owner, SparseLinear) and leaf == "packed":
            weight = owner.packed_weight
            saved.tensors[name] = torch.from_numpy(weight.to_dense()).to(DTYPES[weight.dtype])
        else:
            # A copy where memory is shared in part: the file format knows no views.
            saved.tensors[name] = _alone(tensor.detach().cpu().contiguous())
    saved.geometry = geometry(model)
    saved.fused = [
        name
        for name, module in modules.items()
        if isinstance(module, Fused) or (isinstance(module, SharedLinear) and module.leads)
    ]
    return saved


class _Plan:
    """Everything `load` will do, checked and allocated beforehand."""

    def __init__(self, model: nn.Module, saved: Saved, before: Before) -> None:
        self.model, self.saved, self.before = model, saved, before
        before.note(model)  # as it is once what shrink_ removed is gone
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.steps: list[Callable[[], object]] = []
        self.sparse: dict[str, SparseLinear] = {}
        self.copies: list[tuple[SparseLinear, nn.Embedding]] = []
        self._plan_sparse()
        names = self._match_names()
        self._plan_tensors(names)

    def apply(self) -> None:
        for step in self.steps:
            step()
        for layer, embedding in self.copies:
            layer.__dict__["copy_of"] = embedding.weight

    def _plan_sparse(self) -> None:
        buffers: dict[str, PackedWeight] = {}
        made: dict[int, SparseLinear] = {}
        for path, entry in self.saved.sparse.items():
            name = f"{path}.weight" if path else "weight"
            name = self.saved.ties.get(name, name)
            old = self._linear_at(path, tuple(self.saved.tensors[name].shape))
            if name not in buffers:
                buffers[name] = pack(self.saved.tensors[name], dtype=entry.dtype, format=entry.format)
            bias = f"{path}.bias" if path else "bias"
            has_bias = bias in self.saved.tensors or bias in self.saved.ties
            if id(old) not in made:
                made[id(old)] = _sparse_like(old, buffers[name], has_bias, entry.activation)
                if (embedding := self._embedding_of(old)) is not None:
                    self.copies.append((made[id(old)], embedding))
                made[id(old)].conv1d = is_conv1d(old) or bool(getattr(old, "conv1d", False))
                stored = self.saved.tensors[name].dtype
                made[id(old)].weight_dtype = (
                    getattr(torch, entry.weight_dtype) if entry.weight_dtype else stored
                )
            self.sparse[path] = made[id(old)]
            self.steps.append(partial(self._put, path))

    def _embedding_of(self, old: nn.Module) -> nn.Embedding | None:
        """The embedding that `old` is tied to, or holds a copy of."""
        weight = old._parameters.get("weight", getattr(old, "copy_of", None))
        embeddings = (m for m in self.modules.values() if isinstance(m, nn.Embedding))
        return next((m for m in embeddings if m.weight is weight), None)

    def _linear_at(self, path: str, shape: tuple[int, ...]) -> nn.Module:
        module: nn.Module | None = self.modules.get(path)
        if isinstance(module, SparseLinear):
            found: tuple[int, ...] = (module.out_features, module.in_features)
        else:
            try:
                found = tuple(weight_matrix(module).shape) if module is not None else ()
            except TypeError:
                found = ()
            if not path and found:
                raise ValueError(
                    "model: expected a model around the saved layer, got the bare Linear: wrap it"
                )
        if module is None or not found:
            got = "no such module" if module is None else type(module).__name__
            raise ValueError(f"model: expected a Linear at {path!r}, got {got}")
        if found != shape:
            raise ValueError(f"model: expected {path}.weight of shape {shape} as in the file, got {found}")
        return module

    def _put(self, path: str) -> None:
        new = self.sparse[path]
        if not path:  # the model itself is the SparseLinear
            old = self.model
            self.before.attribute(old, "activation")
            old.activation, old.packed, old.bias = new.activation, new.packed, new.bias  # type: ignore[assignment]
            return
        parent, _, leaf = path.rpartition(".")
        self.modules[parent]._modules[leaf] = new

    def _match_names(self) -> list[str]:
        """Names that are ordinary tensors on both sides; ValueError where the sides differ."""
        file = [*self.saved.tensors, *self.saved.ties]
        mine = [n for n in self.model.state_dict(keep_vars=True) if n.rpartition(".")[0] not in self.sparse]
        for path, layer in self.sparse.items():
            mine += [
                f"{path}.{leaf}" if path else leaf for leaf in ("weight", "bias") if leaf in _leaves(layer)
            ]
        missing, extra = sorted(set(file) - set(mine)), sorted(set(mine) - set(file))
        if missing or extra:
            parts = [f"no {missing[:3]}"] * bool(missing) + [f"unexpected {extra[:3]}"] * bool(extra)
            raise ValueError(f"model: expected the tensors of the file, got {' and '.join(parts)}")
        for name, buffer in self.model.named_buffers():
            if (
                buffer.device.type == "meta"
                and name not in file
                and name.rpartition(".")[0] not in self.sparse
            ):
                raise ValueError(f"model: expected tensors with data, got {name!r} on the meta device")
        weights = {f"{path}.weight" if path else "weight" for path in self.sparse}
        return [name for name in file if name not in weights]

    def _plan_tensors(self, names: list[str]) -> None:
        claimed: dict[int, str] = {}
        targets: dict[str, Tensor] = {}
        for name in names:
            path, _, leaf = name.rpartition(".")
            owner: nn.Module = self.sparse.get(path) or self.modules[path]
            table = owner._parameters if leaf in owner._parameters else owner._buffers
            present = table[leaf]
            if present is None:
                raise ValueError(f"model: expected a tensor {name!r}, got None")
            original = self.saved.ties.get(name, name)
            value = self.saved.tensors[original]
            if present.shape != value.shape:
                want, got = tuple(value.shape), tuple(present.shape)
                raise ValueError(f"model: expected {name} of shape {want} as in the file, got {got}")
            if original not in targets:
                # A tensor that two names of the fresh model share, but not in the file, is untied.
                mine = claimed.setdefault(id(present), original) == original
                targets[original] = self._plan_value(present, value, reuse=mine)
            target = targets[original]
            if target is not present:
                self.steps.append(partial(operator.setitem, table, leaf, target))

    def _plan_value(self, present: Tensor, value: Tensor, reuse: bool) -> Tensor:
        """The tensor object that will hold `value`: the present one where possible, so that references
        stay."""
        if not reuse or present.device.type == "meta":
            device = "cpu" if present.device.type == "meta" else present.device
            fresh = value.clone().to(device)
            return nn.Parameter(fresh, present.requires_grad) if isinstance(present, nn.Parameter) else fresh
        if present.shape == value.shape and present.dtype == value.dtype and present.is_contiguous():
            self.steps.append(partial(self.before.copy, present, value))
        else:
            replacement = value.clone().to(present.device)
            self.steps.append(partial(self.before.replace, present, replacement))
        return present


def _sparse_like(
    old: nn.Module, packed: PackedWeight, has_bias: bool, activation: str | None
) -> SparseLinear:
    bias = None
    if has_bias:
        present = old._parameters.get("bias")
        same = present is not None and present.shape == (packed.shape[0],)
        bias = present if same else nn.Parameter(torch.zeros(packed.shape[0]))
    layer = SparseLinear.from_packed(packed, bias, activation)
    layer.train(old.training)
    return layer


def _entry(layer: SparseLinear) -> SparseEntry:
    packed = layer.packed_weight
    stands_for = str(layer.weight_dtype).removeprefix("torch.")
    as_stored = DTYPES[packed.dtype] == layer.weight_dtype
    return SparseEntry(
        layer.activation,
        packed.dtype,
        "dot" if packed.format == "dot" else "auto",
        None if as_stored else stands_for,
    )


def _leaves(layer: SparseLinear) -> tuple[str, ...]:
    return ("weight",) if layer.bias is None else ("weight", "bias")


def _memory(tensor: Tensor, name: str) -> Any:
    """Equal for tensors that are one and the same memory; tensors without elements share nothing."""
    if not tensor.numel():
        return name
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _alone(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
