"""save and load: a pruned model as one small file, back into a fresh dense model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from prunus._tools.interrupts import OneInterrupt
from prunus._tools.running import check_model
from prunus.checkpoint.before import Before
from prunus.checkpoint.file import read, write
from prunus.checkpoint.gather import gather
from prunus.checkpoint.plan import Plan
from prunus.nn import SparseLinear
from prunus.nn.attention import take_attention
from prunus.nn.experts import split_experts_
from prunus.nn.fuse import fuse_
from prunus.prune.fold import folded
from prunus.shrink import apply_geometry_, geometry, save_ordinarily

__all__ = ["load", "most_elements", "save"]

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
        saved = gather(model)
    write(saved, path)


def load(model: ModelT, path: Path) -> ModelT:
    """Turn a fresh dense model of the same architecture into the saved one, in place, and return it.

    Its weights do not matter (they may be on the meta device). Layers that were SparseLinear become so again,
    packed for this machine; pruned dense layers stay dense; what `shrink_` removed goes here too; what was
    tied is tied; what `fuse_` had fused is fused, attention by our operator is so again, and experts that
    `accelerate_` converted are a layer per matrix; tensors get the dtype of the file. With an error the
    model is as it was.

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
    saved = read(path, most_elements(model))
    with OneInterrupt() as interrupt:
        before, shape = Before(model), geometry(model)
        undo = apply_geometry_(model, saved.geometry)
        whole: Callable[[], None] | None = None
        try:
            whole = split_experts_(model, saved.experts)
            Plan(model, saved, before).apply()
            fuse_(model, saved.fused)
            if saved.attention:
                take_attention(model)
        except BaseException:
            interrupt.hold()
            before.restore()
            if whole is not None:
                whole()
            undo()
            raise
    if saved.sparse or geometry(model) != shape:
        save_ordinarily(model)
    return model


def most_elements(model: nn.Module) -> int:
    """What a file for this model may hold: a bound for files that were made to fill the memory."""
    sizes = [
        tensor.numel() for tensor in model.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor)
    ]
    packed = [m.in_features * m.out_features for m in model.modules() if isinstance(m, SparseLinear)]
    # Twice, and a little: biases that shrink_ added, tensors that were shared and are not any more.
    return 2 * (sum(sizes) + sum(packed)) + 2**20
