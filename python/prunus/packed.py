"""Packing: dense + mask -> packed weight, and back."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import prunus._core as _core
from prunus._tools.arrays import as_array, dtype_word

if TYPE_CHECKING:
    import torch

    Array = NDArray[Any] | torch.Tensor
    #: A word, or a torch or numpy dtype.
    DtypeLike = str | torch.dtype | np.dtype[Any] | type[np.generic]

#: Formats of any dtype, multiplied as float32.
FLOAT_FORMATS = ("col8", "bitmap", "nm", "block")
#: And dot, which multiplies in the precision of its dtype.
CPU_FORMATS = (*FLOAT_FORMATS, "dot")
#: And warp, which is for CUDA.
FORMATS = (*CPU_FORMATS, "warp")
DTYPES = ("float32", "bfloat16", "float16", "int8")


class PackedWeight:
    """A pruned weight (n, k) in the byte layout that the kernels read.

    Immutable; one 1-D uint8 ``buffer`` holds everything, so it copies, pickles and saves like any array.

    >>> import numpy as np, prunus
    >>> p = prunus.pack(np.array([[0.0, 2.0], [0.0, 0.0]], dtype=np.float32))
    >>> p.shape, p.nnz, p.sparsity
    ((2, 2), 1, 0.75)
    """

    __slots__ = ("_info", "buffer", "tensor")

    def __init__(self, buffer: NDArray[np.uint8]) -> None:
        self.buffer = buffer
        self._info = _core.packed_info(buffer)
        # Made here where torch is loaded: torch.compile cannot trace the making of it under inference_mode.
        self.tensor: Any = tensor_view(buffer) if sys.modules.get("torch") is not None else None

    @classmethod
    def from_buffer(cls, buffer: NDArray[np.uint8]) -> PackedWeight:
        """Accept a buffer (1-D uint8) from outside after checking every offset and index in it.

        Raises ``FormatError`` naming the field when the bytes are not a packed weight.

        >>> import numpy as np, prunus
        >>> p = prunus.pack(np.eye(3, dtype=np.float32))
        >>> prunus.PackedWeight.from_buffer(p.buffer.copy()).nnz
        3
        """
        buffer = np.ascontiguousarray(np.asarray(buffer, dtype=np.uint8))
        _core.validate_packed(buffer)
        return cls(buffer)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k): out_features, in_features."""
        return (self._info["n"], self._info["k"])

    @property
    def nnz(self) -> int:
        """Number of stored (nonzero) weights."""
        return int(self._info["nnz"])

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, 0..1 (0.0 for a weight without elements)."""
        n, k = self.shape
        return 1.0 - self.nnz / (n * k) if n * k else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the whole buffer, header included."""
        return int(self.buffer.nbytes)

    @property
    def format(self) -> str:
        """Name of the byte layout."""
        return str(self._info["format"])

    @property
    def dtype(self) -> str:
        """Name of the stored values' dtype, e.g. ``"float32"``."""
        return str(self._info["dtype"])

    def to_dense(self) -> NDArray[np.float32]:
        """Unpack to a dense float32 array (n, k): the stored values in place, zeros elsewhere.

        >>> import numpy as np, prunus
        >>> prunus.pack(np.array([[0.0, 2.0]], dtype=np.float32)).to_dense()
        array([[0., 2.]], dtype=float32)
        """
        return _core.unpack(self.buffer)

    def explain(self, m: int, finite: bool = True) -> dict[str, Any]:
        """How `prunus.linear` would run m tokens now: kernels, tokens per pass, threads, balance.

        kernel and last_kernel (of the last pass, which may be narrower) are names of `_core.kernels()`: the
        function of that name is in csrc/kernels/linear. reason: why this kernel. balance: the work of a
        mean thread over that of the busiest, 1.0 when all have as much to do. finite: x holds no NaN or
        infinity; one that does takes a kernel that skips the zeros. The plan is made in every call, from
        counts alone (below a microsecond), so it follows `torch.set_num_threads` and `PRUNUS_ISA`. Raises
        ``ValueError`` when m is negative.

        >>> import numpy as np, prunus
        >>> prunus.pack(np.eye(64, dtype=np.float32)).explain(128)["kernel"]
        'col8_f32_64'
        """
        return _core.explain(self.buffer, m, finite)

    def __reduce__(self) -> tuple[Any, ...]:
        return (PackedWeight.from_buffer, (self.buffer,))

    def __repr__(self) -> str:
        n, k = self.shape
        return (
            f"PackedWeight({n}x{k}, sparsity={self.sparsity:.3f}, format={self.format}, "
            f"dtype={self.dtype}, {self.nbytes} bytes)"
        )


def pack(
    w: Array,
    mask: Array | None = None,
    dtype: DtypeLike | None = None,
    format: str = "auto",
    rows: int | None = None,
) -> PackedWeight:
    """Pack a weight (n, k) so that only its nonzeros are stored.

    w: float32, float64, float16 or bfloat16, numpy or torch CPU, any strides.
    mask: bool (n, k), True = keep; None keeps every nonzero.
    dtype: of the stored values, "float32" (the default), "bfloat16", "float16" or "int8" (rounded to nearest;
    int8 has one scale max|w| / 127 per row), as a word or a torch or numpy dtype.
    format: "nm" (n slots for every m consecutive inputs, m <= 16), "block" (r x c weights share a column;
    powers of two, r <= 32, c <= 16), "col8" (8-bit columns), "bitmap" (one bit per weight), or "auto": what
    the nonzeros fit, else the bitmap or, for few nonzeros, col8. n, m, r and c are read off the nonzeros;
    where m, r or c does not divide the weight, its last groups or blocks are cut off. These four multiply
    float32 whatever the dtype. "dot" multiplies in the dtype itself: int8 (activations become 8-bit integers
    too, each token with a scale of its own; sums are exact) or bfloat16 (products of bfloat16, float32 sums),
    in blocks of r rows (1, 4, 16, 32) x 32 bits of inputs whose zeros are multiplied, for which a dense
    weight is the 0 % case. A token with NaN or infinity gives NaN in int8 dot. "warp" is for CUDA
    tensors, of any dtype, at most 40960 columns, and for few tokens; the CPU does not multiply with it.
    rows: r of "dot"; None: the one whose stored values cost least. Tall blocks run on the tiles of AMX, where
    a weight with most zeros stored can be faster than one without.
    Zeros and subnormals are not stored. Raises ``ValueError`` (shape, dtype, format), ``TypeError`` (kind).

    >>> import numpy as np, prunus
    >>> w = np.array([[1.0, -2.0, 3.0]], dtype=np.float32)
    >>> prunus.pack(w, mask=np.array([[True, False, True]])).to_dense()
    array([[1., 0., 3.]], dtype=float32)
    """
    stored = dtype_word(dtype, "dtype", DTYPES) if dtype is not None else "float32"
    if format not in ("auto", *FORMATS):
        raise ValueError(f"format: expected auto or one of {', '.join(FORMATS)}, got {format!r}")
    weight = as_array(w, "w")
    if weight.array.ndim != 2:
        raise ValueError(f"w: expected 2 dimensions (n, k), got {weight.array.ndim}")
    keep = None
    if mask is not None:
        keep = as_array(mask, "mask", dtypes=("bool",)).array
        if keep.shape != weight.array.shape:
            raise ValueError(f"mask: expected the shape of w {weight.array.shape}, got {keep.shape}")
        keep = _rows_contiguous(keep)
    return PackedWeight(_core.pack(_rows_contiguous(weight.array), weight.dtype, keep, stored, format, rows))


def tensor_view(buffer: NDArray[np.uint8]) -> torch.Tensor:
    """The buffer as a torch tensor of the same memory; imports torch.

    >>> tensor_view(np.zeros(3, np.uint8))
    tensor([0, 0, 0], dtype=torch.uint8)
    """
    import torch

    with torch.inference_mode(False):
        if buffer.flags.writeable:
            return torch.from_numpy(buffer)
        with warnings.catch_warnings():
            # torch warns that it could write into a read-only buffer (a memory map): nothing ever does.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(buffer)


def array_view(packed: torch.Tensor) -> NDArray[np.uint8]:
    """The other way: a torch tensor (any device) as an array, of the same memory on the CPU.

    Raises ``ValueError`` where that memory was freed (``untyped_storage().resize_(0)``): torch itself would
    read it.

    >>> import torch
    >>> array_view(torch.zeros(3, dtype=torch.uint8))
    array([0, 0, 0], dtype=uint8)
    """
    reach = sum((size - 1) * stride for size, stride in zip(packed.shape, packed.stride(), strict=True))
    need = (packed.storage_offset() + reach + 1) * packed.element_size() if packed.numel() else 0
    held = packed.untyped_storage().nbytes()
    if held < need:
        raise ValueError(f"packed: expected memory of {need} bytes, got {held}: it was freed")
    array: NDArray[np.uint8] = packed.detach().cpu().numpy()
    return array


def _rows_contiguous(a: NDArray[Any]) -> NDArray[Any]:
    """The array itself when its last dimension is contiguous, else a copy (of one layer: bounded)."""
    ok = a.shape[1] <= 1 or a.strides[1] == a.itemsize
    return a if ok else np.ascontiguousarray(a)
