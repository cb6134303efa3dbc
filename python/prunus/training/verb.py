"""Training a pruned model: what is zero stays zero, the rest moves."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunus._tools.running import check_model
from prunus.families import FilterFn, is_linear, weight_matrix
from prunus.masks import apply_mask_
from prunus.shrink.optimizer import check_optimizer

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["ZeroKeeper", "keep_zeros"]


def keep_zeros(model: nn.Module, optimizer: Optimizer, filter_fn: FilterFn | None = None) -> ZeroKeeper:
    """From now on every zero in the Linear and Conv1D weights of `model` survives `optimizer.step()`.

    Masking gradients is not enough: momentum from before the pruning moves zeros, and so may weight decay and
    noise. Here the gradient of a pruned weight is set to zero when it arrives (so that clipping by norm and
    the optimiser's averages do not see it), and the weight itself after every step. Works with gradient
    accumulation, `torch.amp.GradScaler` and any optimiser, also in the wrapper that `transformers.Trainer`
    and `accelerate` put around it. Weights that reach zero by themselves later stay
    free. A weight of nothing but zeros (a fresh low-rank adapter) is left free: it would never learn.
    filter_fn(module, name) -> bool: False leaves a layer free.

    Masks are bool, one byte per weight. Warns (UserWarning) when the optimiser holds parameters that the
    model lost to `shrink_`. Raises TypeError (kinds), ValueError (no layer has zeros; weights that FSDP keeps
    in shards: no process sees the zeros of a whole one).

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[0.0, 1.0]]))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with keep_zeros(model, optimizer):
    ...     model(torch.ones(1, 2)).sum().backward()
    ...     optimizer.step()
    >>> [round(w, 3) for w in model[0].weight[0].tolist()]
    [0.0, 0.9]
    """
    check_model(model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    optimizer = _innermost(optimizer)
    _check_whole(model)
    check_optimizer(optimizer, model)
    masks: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight") if is_linear(module) else None
        if weight is None or id(weight) in seen or (filter_fn is not None and not filter_fn(module, name)):
            continue
        seen.add(id(weight))
        mask = weight_matrix(module) != 0
        if mask.any() and not mask.all():
            masks[name] = mask
    if not masks:
        raise ValueError("model: expected a Linear or Conv1D whose weight is zero in part, got none")
    return ZeroKeeper(model, optimizer, masks)


def _innermost(optimizer: Any) -> Optimizer:
    """The optimiser inside wrappers that are called one but lack its hooks (`AcceleratedOptimizer`)."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    found: Optimizer = optimizer
    return found


def _check_whole(model: nn.Module) -> None:
    """ValueError for the shards of FSDP: FullyShardedDataParallel, and fully_shard with its DTensors."""
    for name, module in model.named_modules():
        if any(base.__name__ in ("FullyShardedDataParallel", "FSDPModule") for base in type(module).__mro__):
            where = f"at {name!r}" if name else "as the model"
            raise ValueError(
                f"model: expected whole weights, got shards of FSDP {where}: their zeros cannot be kept. "
                "Train with DistributedDataParallel, or without keep_zeros and prune again"
            )
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements"):  # a DTensor
            raise ValueError(
                f"model: expected whole weights, got a {type(parameter.data).__name__} {name!r}: the zeros "
                "of a shard cannot be kept"
            )


class ZeroKeeper:
    """What `keep_zeros` set up; `remove()`, or the end of a `with` block, takes it off again.

    masks: layer name -> bool (n, k), True = keep.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[0.0, 1.0]]))
    >>> keeper = keep_zeros(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> keeper.masks["0"].tolist()
    [[False, True]]
    >>> keeper.remove()
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, masks: dict[str, Tensor]) -> None:
        self.masks = masks
        self._layers = {name: model.get_submodule(name) for name in masks}
        self._handles: list[Any] = [optimizer.register_step_post_hook(lambda *_: self._silence())]
        for name, layer in self._layers.items():
            weight = layer._parameters["weight"]
            if weight is not None and weight.requires_grad:
                hook = partial(self._silence_gradient, name, layer)
                hooked: Any = weight
                self._handles.append(hooked.register_post_accumulate_grad_hook(hook))

    def apply_(self, model: nn.Module) -> None:
        """Write the same zeros into another model with the same layers, such as an average (EMA) of the
        weights that began before the pruning. Raises ValueError when a layer is missing."""
        found = dict(model.named_modules())
        missing = [name for name in self.masks if name not in found]
        if missing:
            raise ValueError(f"model: expected the layers of the pruned one, got no {', '.join(missing[:3])}")
        for name in self.masks:
            self._write(weight_matrix(found[name]), name)

    def remove(self) -> None:
        """Let the zeros go."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> ZeroKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _silence(self) -> None:
        for name, layer in self._layers.items():
            self._write(weight_matrix(layer), name)

    def _silence_gradient(self, name: str, layer: nn.Module, weight: Tensor) -> None:
        if weight.grad is not None:
            grad = weight.grad.detach()
            self._write(grad if isinstance(layer, nn.Linear) else grad.t(), name)

    def _write(self, matrix: Tensor, name: str) -> None:
        """Zeros into a (n, k) matrix; not by multiplying: infinity times zero is no zero."""
        mask = self.masks[name]
        if matrix.device.type == "cpu" and 1 in matrix.stride() and mask.device.type == "cpu":
            apply_mask_(matrix, mask)
            return
        if mask.device != matrix.device:  # the model was moved
            mask = self.masks[name] = mask.to(matrix.device)
        matrix.masked_fill_(~mask, 0)
