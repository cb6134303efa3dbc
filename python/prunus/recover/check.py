"""Whether a model and a teacher belong together, before anything is trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunus._tools.running import check_model, devices_of
from prunus.families import is_linear, weight_matrix

__all__ = ["check_pair", "free_weights"]


def check_pair(model: nn.Module, teacher: nn.Module) -> None:
    """TypeError and ValueError for what can be seen without running the models."""
    check_model(model)
    check_model(teacher, "teacher")
    if not any(True for _ in model.parameters()):
        raise ValueError("model: expected parameters to train, got none")
    own = {p.data_ptr() for p in model.parameters() if p.requires_grad and p.numel()}
    if model is teacher or any(p.data_ptr() in own for p in teacher.parameters()):
        raise ValueError(
            "teacher: expected a model of its own, got one that shares weights with the pruned model; "
            "keep copy.deepcopy(model) from before the pruning"
        )
    packed = [name for name, module in model.named_modules() if "packed" in module._buffers]
    if packed:
        raise ValueError(
            f"model: expected ordinary layers, got packed ones such as {packed[0]}; "
            "recover before accelerate_"
        )
    mine, theirs = devices_of(model), devices_of(teacher)
    if len(mine) > 1 or mine != theirs:
        raise ValueError(
            f"teacher: expected the model and its teacher on one device, got {', '.join(mine)} and "
            f"{', '.join(theirs)}"
        )
    for key, what in (("model_type", "architecture"), ("vocab_size", "vocabulary")):
        a, b = (_number(m, key) for m in (model, teacher))
        if a is not None and b is not None and a != b:
            raise ValueError(f"teacher: expected the model's {what}, {key} {a}, got {b}")


def _number(model: Any, key: str) -> Any:
    return getattr(getattr(model, "config", None), key, None)


def free_weights(model: nn.Module, teacher: nn.Module) -> str:
    """A sentence when nothing of the model is zero and nothing was removed; "" otherwise."""
    linears = [module for module in model.modules() if is_linear(module)]
    plain: list[Any] = [m for m in linears if m._parameters.get("weight") is not None]
    matrices = [weight_matrix(module) for module in plain]
    if any(bool((matrix == 0).any()) for matrix in matrices):
        return ""
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, teacher)]
    if sizes[0] < sizes[1]:
        return ""
    count = sum(matrix.numel() for matrix in matrices)
    return (
        f"model: nothing is zero and nothing was removed; all {count:,} weights of {len(matrices)} layers "
        "are trained freely"
    )
