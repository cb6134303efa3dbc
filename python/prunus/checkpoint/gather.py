"""From a model to what its checkpoint holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunus.checkpoint.saved import DTYPES, Saved, SparseEntry, weight_name
from prunus.nn import Experts, SparseLinear
from prunus.nn.attention import uses_attention
from prunus.nn.fused import Fused
from prunus.nn.shared import SharedLinear
from prunus.shrink.geometry import geometry

__all__ = ["gather"]


def gather(model: nn.Module) -> Saved:
    """What the file will hold, read off the model; TypeError and ValueError as `save`.

    >>> sorted(gather(nn.Linear(2, 1)).tensors)
    ['bias', 'weight']
    """
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
            name = weight_name(owner_path)
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
    saved.experts = [name for name, module in modules.items() if isinstance(module, Experts)]
    saved.attention = bool(uses_attention(model))
    return saved


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


def _memory(tensor: Tensor, name: str) -> Any:
    """Equal for tensors that are one and the same memory; tensors without elements share nothing."""
    if not tensor.numel():
        return name
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _alone(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
