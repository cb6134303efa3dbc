"""What counts as a Linear, which way its weight lies, and who else holds it: every verb asks here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "FilterFn",
    "in_adapter",
    "is_conv1d",
    "is_linear",
    "is_plain_linear",
    "memory",
    "owners",
    "stored_weight",
    "weight_count",
    "weight_matrix",
]

#: (module, qualified name) -> whether a verb may touch it.
FilterFn = Callable[[nn.Module, str], bool]


# What a low-rank adapter calls its two matrices, as peft, diffusers and others name them.
ADAPTER_PARTS = frozenset(
    {"lora_A", "lora_B", "lora_down", "lora_up", "lora_embedding_A", "lora_embedding_B"}
)


def in_adapter(name: str) -> bool:
    """Whether the module or parameter of that name is part of a low-rank adapter (LoRA).

    >>> in_adapter("layers.0.q_proj.lora_A.default"), in_adapter("layers.0.q_proj.base_layer")
    (True, False)
    """
    return not ADAPTER_PARTS.isdisjoint(name.split("."))


def is_conv1d(module: Any) -> bool:
    """Whether it is the Conv1D of `transformers`, whose weight is stored as (k, n).

    Told by its name along the bases, so that `transformers` need not be imported: a parametrized Conv1D is of
    a class made for it.

    >>> is_conv1d(nn.Conv1d(1, 1, 1))
    False
    """
    return hasattr(module, "nf") and any(base.__name__ == "Conv1D" for base in type(module).__mro__)


def is_linear(module: Any) -> bool:
    """nn.Linear and its subclasses, and Conv1D.

    >>> is_linear(nn.Linear(2, 2)), is_linear(nn.Embedding(2, 2))
    (True, False)
    """
    return isinstance(module, nn.Linear) or is_conv1d(module)


# Subclasses of Linear that only multiply and add, each in its own step.
SAME = frozenset({"FalconLinear"})


def is_plain_linear(module: Any) -> bool:
    """Exactly nn.Linear or Conv1D: a subclass may do more in forward than multiply. Those in `SAME` do not.

    >>> is_plain_linear(torch.ao.nn.qat.Linear(2, 2, qconfig=torch.ao.quantization.default_qconfig))
    False
    """
    name = type(module).__name__
    same = isinstance(module, nn.Linear) and name in SAME
    return type(module) is nn.Linear or same or (is_conv1d(module) and name == "Conv1D")


def weight_matrix(module: nn.Module) -> Tensor:
    """The weight of a Linear or Conv1D as a (n, k) matrix: out_features x in_features.

    A detached view: writing into it changes the module's weight. Raises TypeError for other modules and
    parametrized weights.

    >>> weight_matrix(nn.Linear(3, 5)).shape
    torch.Size([5, 3])
    """
    weight = module._parameters.get("weight")
    if weight is None or not is_linear(module) or weight.dim() != 2:
        kind = type(module).__name__
        raise TypeError(f"module: expected a Linear or Conv1D with a dense 2-D weight, got {kind}")
    return weight.detach().t() if is_conv1d(module) else weight.detach()


def weight_count(model: nn.Module) -> int:
    """Numbers in all parameters of a model, shared ones once; a packed layer counts as the dense one.

    >>> weight_count(nn.Linear(3, 4))
    16
    """
    unique = {memory(p): p.numel() for p in model.parameters() if not nn.parameter.is_lazy(p)}
    packed: list[Any] = [module for module in model.modules() if "packed" in module._buffers]
    return sum([*unique.values(), *(int(layer.in_features) * int(layer.out_features) for layer in packed)])


def stored_weight(module: Any) -> Tensor | None:
    """The parameter behind `module.weight`: itself, or the (largest) original under a mask, a norm or a
    parametrization.

    >>> layer = torch.nn.utils.prune.identity(nn.Linear(2, 2), "weight")
    >>> stored_weight(layer) is layer.weight_orig
    True
    """
    for name in ("weight", "weight_orig", "weight_v"):
        found: Tensor | None = module._parameters.get(name)
        if found is not None:
            return found
    if not nn.utils.parametrize.is_parametrized(module, "weight"):
        return None
    originals = [p for p in module.parametrizations.weight._parameters.values() if p is not None]
    return max(originals, key=Tensor.numel, default=None)


def memory(tensor: Tensor | None) -> int:
    """Equal for tensors that begin at the same address; of what has no address, the object's own number.

    >>> weight = torch.ones(2, 3)
    >>> memory(weight) == memory(weight.detach()), memory(weight) == memory(weight.clone())
    (True, False)
    """
    if tensor is None or nn.parameter.is_lazy(tensor) or type(tensor.data) is not Tensor or tensor.is_meta:
        return id(tensor)
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr()


def owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """Memory of a parameter -> (qualified name, module) of every module that holds it; of a Linear the weight
    alone. A module that the model holds twice counts once, by its first name.

    >>> model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 4))
    >>> model[1].weight = model[0].weight
    >>> [name for name, _ in owners(model)[memory(model[1].weight)]]
    ['0', '1']
    """
    found: dict[int, list[tuple[str, nn.Module]]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            continue  # the module it belongs to is the owner
        held = [stored_weight(module)] if is_linear(module) else list(module._parameters.values())
        for parameter in held:
            if parameter is not None:
                found[memory(parameter)].append((name, module))
    return found
