"""The library of CUDA kernels: where it is, whether it is open, and the stream that its work goes to."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prunus._core as _core

if TYPE_CHECKING:
    import torch

__all__ = ["LIBRARY", "has_kernels", "is_cuda", "open_library", "stream_of", "why_closed"]

#: Built by `pip install . -C cmake.define.PRUNUS_CUDA=ON`, beside `_core`.
LIBRARY = Path(_core.__file__).parent / "libprunus_cuda.so"


@functools.cache
def why_closed() -> str:
    """Why the CUDA kernels cannot be used; "" where they can. Opens the library at the first call.

    >>> isinstance(why_closed(), str)
    True
    """
    import torch

    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if not LIBRARY.exists():
        return "prunus was built without CUDA (pip install . -C cmake.define.PRUNUS_CUDA=ON)"
    try:
        _core.cuda_open(str(LIBRARY))
    except RuntimeError as error:
        return str(error)
    info = _core.cuda_info() or {}
    if info["error"]:
        return f"CUDA: {info['error']}"
    for device in info["devices"]:
        if not device["has_code"]:
            major, minor = device["capability"]
            return (
                f"the library has code for {info['architectures']}, and {device['name']} is "
                f"sm_{major}{minor} (build with CMAKE_CUDA_ARCHITECTURES={major}{minor})"
            )
    return ""


def open_library(argument: str = "x") -> None:
    """Open the library, once. Raises RuntimeError, naming the argument, with the reason where it cannot be.

    >>> open_library.__name__
    'open_library'
    """
    reason = why_closed()
    if reason:
        raise RuntimeError(
            f"{argument}: expected a tensor that prunus can compute with, got one on CUDA: {reason}"
        )


def is_cuda(value: object) -> bool:
    """Whether value is a torch tensor on a CUDA device; never imports torch.

    >>> is_cuda(1.0)
    False
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor) and bool(value.is_cuda)


def has_kernels(tensor: torch.Tensor) -> bool:
    """Whether prunus computes with a tensor where it is: on the CPU, and on CUDA where the library is open.

    >>> import torch
    >>> has_kernels(torch.zeros(1))
    True
    """
    return bool(tensor.is_cpu) or (is_cuda(tensor) and not why_closed())


def stream_of(tensor: torch.Tensor) -> int:
    """torch's current stream of the tensor's device, as a number; 0 for CPU tensors, which the kernels'
    model on the host takes (tests/cuda/host).

    >>> import torch
    >>> stream_of(torch.zeros(1))
    0
    """
    if not tensor.is_cuda:
        return 0
    import torch

    # What torch's own compiled code asks; torch.cuda.current_stream makes an object of it first.
    current: Any = torch._C._cuda_getCurrentRawStream
    return int(current(tensor.get_device()))
