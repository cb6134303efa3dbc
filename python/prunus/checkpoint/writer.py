"""Writing a safetensors file: equal contents are equal bytes, and a full disk is an OSError.

The library's own writer puts metadata in the order of a hash that differs in every process, leaves a
temporary file behind when it is killed, and has an exception of its own for what the disk says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["write_tensors"]

# The names of dtypes in the format.
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8  # of the first tensor in the file


def write_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write contiguous CPU tensors and metadata. Raises OSError, and TypeError for dtypes without a name.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "two.safetensors")
    >>> write_tensors({"a": torch.zeros(2), "b": torch.ones(())}, {"of": "two"}, path)
    >>> import safetensors.torch
    >>> safetensors.torch.load_file(path)["a"]
    tensor([0., 0.])
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise TypeError(f"model: expected a dtype that safetensors has, got {tensor.dtype} {name!r}")
    # The widest first, so that all are aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            # reshape first: a tensor without dimensions cannot be viewed as bytes
            file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
