"""From what a checkpoint holds to a model."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from prunus._tools.running import device_of
from prunus.checkpoint.before import Before
from prunus.checkpoint.saved import Saved, weight_name
from prunus.families import is_conv1d, weight_matrix
from prunus.nn import SparseLinear
from prunus.packed import PackedWeight, pack

__all__ = ["Plan"]


class Plan:
    """Everything `load` will do to a model, checked and allocated beforehand.

    Making one raises ValueError where the model does not fit `saved`; `apply` changes the model, and tells
    `before` what it overwrites.

    >>> from prunus.checkpoint.gather import gather
    >>> model = nn.Linear(2, 1)
    >>> Plan(model, gather(nn.Linear(2, 1)), Before(model)).apply()
    """

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
        """Do it."""
        for step in self.steps:
            step()
        for layer, embedding in self.copies:
            layer.__dict__["copy_of"] = embedding.weight

    def _plan_sparse(self) -> None:
        buffers: dict[str, PackedWeight] = {}
        made: dict[int, SparseLinear] = {}
        for path, entry in self.saved.sparse.items():
            name = weight_name(path)
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
        weights = {weight_name(path) for path in self.sparse}
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
    device = device_of(old)
    return layer if device is None or device.type == "cpu" else layer.to(device)


def _leaves(layer: SparseLinear) -> tuple[str, ...]:
    return ("weight",) if layer.bias is None else ("weight", "bias")
