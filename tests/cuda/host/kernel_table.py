"""The functions of libprunus_cuda.so over the memory of tensors (csrc/cuda/api.h), for tests."""

import ctypes
import mmap
from pathlib import Path

import numpy as np
import torch

from prunus import PackedWeight

LIBC = ctypes.CDLL(None)
DTYPES = {torch.float32: 1, torch.float16: 3, torch.bfloat16: 4}  # csrc/core/dtypes.def


class Packed(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_uint64),
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
    )


class Linear(ctypes.Structure):
    _fields_ = (
        ("w", Packed),
        ("m", ctypes.c_int64),
        ("dtype", ctypes.c_int),
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("bias_dtype", ctypes.c_int),
        ("residual", ctypes.c_void_p),
        ("residual_stride", ctypes.c_int64),
        ("activation", ctypes.c_int),
        ("times_y", ctypes.c_int),
        ("y", ctypes.c_void_p),
    )


class ProductApi(ctypes.Structure):
    _fields_ = (
        ("linear", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Linear), ctypes.c_void_p)),
        (
            "expand",
            ctypes.CFUNCTYPE(
                ctypes.c_int, ctypes.POINTER(Packed), ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
            ),
        ),
        (
            "finish",
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Linear), ctypes.c_void_p, ctypes.c_void_p),
        ),
    )


class Api(ctypes.Structure):
    """The beginning of the table, as far as tests call it themselves."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("architectures", ctypes.c_char_p),
        ("error_text", ctypes.c_void_p),
        ("device_count", ctypes.c_void_p),
        ("describe", ctypes.c_void_p),
        ("products", ctypes.POINTER(ProductApi)),
    )


class Table:
    """Calls on CPU tensors, by the library that runs kernels on the host."""

    def __init__(self, library: Path) -> None:
        entry = ctypes.CDLL(str(library)).prunus_cuda_api
        entry.restype = ctypes.POINTER(Api)
        self.products = entry().contents.products.contents

    def _call(self, buffer: torch.Tensor, x: torch.Tensor, n: int, k: int) -> Linear:
        call = Linear()
        call.w = Packed(buffer.data_ptr(), buffer.numel(), n, k)
        call.m, call.dtype = x.shape[0], DTYPES[x.dtype]
        call.x, call.x_stride = x.data_ptr(), x.stride(0)
        return call

    def linear(
        self,
        x: torch.Tensor,
        p: PackedWeight | torch.Tensor,
        bias: torch.Tensor | None = None,
        activation: int = 0,
        residual: torch.Tensor | None = None,
        times: torch.Tensor | None = None,
        shape: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        buffer = aligned(torch.from_numpy(p.buffer) if isinstance(p, PackedWeight) else p)
        n, k = shape or p.shape
        y = torch.full((x.shape[0], n), float("nan"), dtype=x.dtype) if times is None else times.clone()
        call = self._call(buffer, x, n, k)
        call.y, call.times_y, call.activation = y.data_ptr(), int(times is not None), activation
        if bias is not None:
            call.bias, call.bias_dtype = bias.data_ptr(), DTYPES[bias.dtype]
        if residual is not None:
            call.residual, call.residual_stride = residual.data_ptr(), residual.stride(0)
        assert self.products.linear(ctypes.byref(call), None) == 0
        return y

    def expand(self, p: PackedWeight, dtype: torch.dtype) -> torch.Tensor:
        buffer, out = aligned(torch.from_numpy(p.buffer)), torch.full(p.shape, float("nan"), dtype=dtype)
        w = Packed(buffer.data_ptr(), buffer.numel(), *p.shape)
        assert self.products.expand(ctypes.byref(w), DTYPES[dtype], out.data_ptr(), None) == 0
        return out

    def finish(
        self, sums: torch.Tensor, bias: torch.Tensor, activation: int, residual: torch.Tensor
    ) -> torch.Tensor:
        call, y = self._call(sums, sums, sums.shape[1], 0), torch.empty_like(sums)
        call.y, call.activation = y.data_ptr(), activation
        call.bias, call.bias_dtype = bias.data_ptr(), DTYPES[bias.dtype]
        call.residual, call.residual_stride = residual.data_ptr(), residual.stride(0)
        assert self.products.finish(ctypes.byref(call), sums.data_ptr(), None) == 0
        return y


def aligned(buffer: torch.Tensor) -> torch.Tensor:
    """The bytes at a multiple of 16, as the kernels want them, and as near as that allows before a page that
    nobody may touch. Not given back: tests have few."""
    page = mmap.PAGESIZE
    room = -(-(buffer.numel() + 16) // page) * page
    memory = mmap.mmap(-1, room + page)
    raw = np.frombuffer(memory, np.uint8)
    assert LIBC.mprotect(ctypes.c_void_p(raw.ctypes.data + room), page, 0) == 0
    start = (room - buffer.numel()) // 16 * 16
    return torch.from_numpy(raw[start : start + buffer.numel()]).copy_(buffer)
