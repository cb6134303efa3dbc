"""What a checkpoint holds: dense tensors, which of them share memory, and what is packed, fused or ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["DTYPES", "Saved", "SparseEntry", "weight_name"]

# dtype of a SparseLinear's values -> of its weight while it is unpacked
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,
}


@dataclass(frozen=True)
class SparseEntry:
    """What a SparseLinear is besides its weight and bias."""

    activation: str | None
    dtype: str
    #: "dot" where the layer multiplies in its dtype; "auto": any format that suits the machine.
    format: str = "auto"
    #: Of the dense weight that the layer stands for; None: as it is stored.
    weight_dtype: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What the file says; what is as in the first version's files is left out."""
        said: dict[str, Any] = {"activation": self.activation, "dtype": self.dtype}
        if self.format != "auto":
            said["format"] = self.format
        if self.weight_dtype is not None:
            said["weight_dtype"] = self.weight_dtype
        return said


@dataclass
class Saved:
    """A model as a file holds it. tensors: name -> dense tensor (packed weights unpacked, under
    PATH.weight)."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)
    sparse: dict[str, SparseEntry] = field(default_factory=dict)
    geometry: dict[str, Any] = field(default_factory=dict)
    fused: list[str] = field(default_factory=list)
    attention: bool = False  # by our operator
    experts: list[str] = field(default_factory=list)  # modules whose matrices are layers of their own


def weight_name(path: str) -> str:
    """Under which the unpacked weight of the SparseLinear at `path` is in the file.

    >>> weight_name("up"), weight_name("")
    ('up.weight', 'weight')
    """
    return f"{path}.weight" if path else "weight"
