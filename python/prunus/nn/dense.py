"""The way back: a model of packed layers as an ordinary one."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunus._tools.interrupts import OneInterrupt
from prunus._tools.running import check_model
from prunus.nn.attention import leave_attention
from prunus.nn.experts import Experts
from prunus.nn.fused import Fused
from prunus.nn.sparse_linear import SparseLinear
from prunus.nn.two_four import TwoFourLinear

__all__ = ["PACKED", "to_dense_"]

#: Layers that stand for a Linear or Conv1D: `to_linear` gives it back.
PACKED = (SparseLinear, TwoFourLinear)


def to_dense_(model: nn.Module) -> list[str]:
    """Turn every packed layer of a model back into a dense one, in place; the names of those layers.

    For what packed layers cannot do: prune again, train all weights, merge adapters, export, change the size
    of the vocabulary beside a packed head. Weights are as they were stored (zeros stay, what int8 or bfloat16
    rounded stays rounded); a head that was packed beside the embedding it is tied to shares its weight again.
    Fused modules, attention and experts become what they were. An error leaves the model as it was.

    Raises TypeError unless model is a torch.nn.Module, and ValueError when it is a packed layer itself, or
    one of its layers has an activation.

    >>> import torch, prunus
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64))
    >>> _ = model[0].weight.data.mul_(torch.rand(64, 64) > 0.9)
    >>> _ = prunus.accelerate_(model, torch.ones(2, 64), min_speedup=0.0)
    >>> prunus.to_dense_(model), type(model[0]).__name__
    (['0'], 'Linear')
    """
    check_model(model)
    if isinstance(model, (*PACKED, Experts)):
        raise ValueError(
            "model: expected a model around packed layers, got the layer itself: use "
            + ("whole()" if isinstance(model, Experts) else "to_linear()")
        )
    made: dict[int, nn.Module] = {}
    names = []
    places: list[tuple[dict[str, Any], str, nn.Module]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, PACKED):
            if id(module) not in made:
                made[id(module)] = _dense(module, name)
                names.append(name)
            new = made[id(module)]
        elif isinstance(module, Experts):
            if id(module) not in made:
                made[id(module)] = _whole(module, name)
            new = made[id(module)]
        elif isinstance(module, Fused) and module.original is not None:
            new = module.original.train(module.training)
        else:
            continue
        parent, _, leaf = name.rpartition(".")
        places.append((model.get_submodule(parent)._modules, leaf, new))
    with OneInterrupt() as interrupt:
        interrupt.hold()
        for children, leaf, new in places:
            children[leaf] = new
        leave_attention(model)
    return names


def _whole(module: Experts, name: str) -> nn.Module:
    try:
        return module.whole()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _dense(layer: SparseLinear | TwoFourLinear, name: str) -> nn.Module:
    try:
        linear = layer.to_linear()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not layer.conv1d:
        return linear
    from transformers.pytorch_utils import Conv1D

    conv: nn.Module = Conv1D(0, 0)  # type: ignore[no-untyped-call]
    conv.nf, conv.nx = layer.out_features, layer.in_features  # type: ignore[assignment]
    conv.weight = nn.Parameter(linear.weight.detach().t().contiguous())
    conv.bias = linear.bias
    return conv.train(layer.training)
