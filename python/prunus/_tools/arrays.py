"""The door: numpy arrays and torch CPU tensors come in without a copy, or are refused with a sentence."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = [
    "FLOATS",
    "Array",
    "ArrayT",
    "View",
    "as_array",
    "as_tensor_on",
    "dtype_word",
    "is_tensor",
    "same_shape",
    "wrap",
]

NumpyArray: TypeAlias = "np.ndarray[Any, Any]"
Array: TypeAlias = "NumpyArray | torch.Tensor"
ArrayT = TypeVar("ArrayT", "np.ndarray[Any, Any]", "torch.Tensor")

FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class View:
    """The caller's memory as numpy sees it.

    array: same shape and strides as the caller's; bfloat16 appears as uint16 (numpy has no such type).
    dtype: one of FLOATS, or "bool".
    kind: what came in, and so what `wrap` gives back; ml_dtypes counts as numpy.
    """

    array: NumpyArray
    dtype: str
    kind: Literal["numpy", "torch"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the caller's array."""
        return cast("tuple[int, ...]", self.array.shape)


def dtype_word(value: object, argument: str, words: tuple[str, ...]) -> str:
    """The word for a dtype that is named by a word, or by a numpy or torch dtype.

    Raises ValueError when it is none of `words`, in the same sentence whatever it came as.

    >>> dtype_word(np.float32, "dtype", FLOATS), dtype_word("bfloat16", "dtype", FLOATS)
    ('float32', 'bfloat16')
    """
    torch = sys.modules.get("torch")
    word = value
    if torch is not None and isinstance(value, torch.dtype):
        word = str(value).removeprefix("torch.")
    elif isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        word = np.dtype(value).name  # ml_dtypes.bfloat16 has a name too
    if not isinstance(word, str) or word not in words:
        raise ValueError(f"{argument}: expected one of {', '.join(words)}, got {value!r}")
    return word


def is_tensor(value: object) -> bool:
    """Whether value is a torch tensor; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(
    value: object, argument: str, *, dtypes: tuple[str, ...] = FLOATS, writable: bool = False
) -> View:
    """An array or tensor as a View of the same memory.

    dtypes: the names that are allowed, ("bool",) for a mask.
    writable: the caller's memory will be changed: refuses read-only arrays, tensors that require grad, and
    memory where elements overlap.

    Raises TypeError when value is neither a numpy array nor a tensor, ValueError naming `argument` for
    another dtype, another device, a sparse layout, foreign byte order.

    >>> as_array(np.zeros((2, 3), np.float32), "w").dtype
    'float32'
    """
    if is_tensor(value):
        view = _from_tensor(cast("torch.Tensor", value), argument, dtypes, writable)
    elif isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        view = _from_numpy(value, argument, dtypes, writable)
    else:
        raise TypeError(f"{argument}: expected a numpy array or a torch tensor, got {type(value).__name__}")
    if writable:
        _check_overlap(view.array.shape, _element_strides(view.array), argument)
    return view


def as_tensor_on(
    value: object, argument: str, device: str, *, dtypes: tuple[str, ...] = FLOATS, writable: bool = False
) -> torch.Tensor:
    """A tensor on a device, such as "cuda:0", detached; checked as `as_array` checks what it takes.

    Raises TypeError when value is neither a numpy array nor a tensor, ValueError for a numpy array and for
    what `as_array` refuses.

    >>> import torch
    >>> as_tensor_on(torch.zeros(2), "w", "cpu").shape
    torch.Size([2])
    """
    if isinstance(value, np.ndarray):
        raise ValueError(f"{argument}: expected a tensor on {device}, got a numpy array")
    if not is_tensor(value):
        raise TypeError(f"{argument}: expected a numpy array or a torch tensor, got {type(value).__name__}")
    tensor = cast("torch.Tensor", value)
    _check_tensor(tensor, argument, device, dtypes, writable)
    if writable:
        _check_overlap(tensor.shape, tensor.stride(), argument)
    return tensor.detach()


def same_shape(view: View, argument: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless view has exactly this shape.

    >>> same_shape(as_array(np.zeros((2, 3)), "w"), "w", (2, 3))
    """
    if view.shape != tuple(shape):
        raise ValueError(f"{argument}: expected shape {tuple(shape)}, got {view.shape}")


def wrap(array: NumpyArray, like: View, dtype: str) -> Array:
    """A numpy array of ours as the kind that `like` came from, sharing the memory.

    dtype: what the bytes are; "bfloat16" comes as uint16 and leaves as the kind's own bfloat16.

    >>> wrap(np.zeros(2, np.float32), as_array(np.zeros(2), "w"), "float32").dtype
    dtype('float32')
    """
    if like.kind == "numpy":
        if dtype == "bfloat16":
            return array.view(np.dtype("bfloat16"))  # registered by ml_dtypes, which made the caller's array
        return array
    import torch

    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _from_numpy(array: NumpyArray, argument: str, dtypes: tuple[str, ...], writable: bool) -> View:
    name = array.dtype.name
    _check_dtype(name, argument, dtypes)
    if not array.dtype.isnative:
        raise ValueError(f"{argument}: expected native byte order, got {array.dtype.str}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{argument}: expected a writable array, got a read-only one")
    plain = array.view(np.uint16) if name == "bfloat16" else array
    return View(np.asarray(plain), name, "numpy")


def _from_tensor(tensor: torch.Tensor, argument: str, dtypes: tuple[str, ...], writable: bool) -> View:
    import torch

    name = _check_tensor(tensor, argument, "cpu", dtypes, writable)
    plain = tensor.detach()
    if name == "bfloat16":
        return View(plain.view(torch.int16).numpy().view(np.uint16), name, "torch")
    return View(plain.numpy(), name, "torch")


def _check_tensor(
    tensor: torch.Tensor, argument: str, device: str, dtypes: tuple[str, ...], writable: bool
) -> str:
    """The name of its dtype."""
    import torch

    if tensor.layout != torch.strided:
        raise ValueError(f"{argument}: expected a dense tensor, got layout {tensor.layout}")
    if str(tensor.device) != device:
        expected = "a CPU tensor" if device == "cpu" else f"a tensor on {device}"
        raise ValueError(f"{argument}: expected {expected}, got device {tensor.device}")
    name = str(tensor.dtype).removeprefix("torch.")
    _check_dtype(name, argument, dtypes)
    if writable and tensor.requires_grad:
        raise ValueError(
            f"{argument}: expected a tensor that does not require grad, got one that does "
            "(w.detach() is the same memory)"
        )
    return name


def _check_dtype(name: str, argument: str, dtypes: tuple[str, ...]) -> None:
    if name not in dtypes:
        expected = " or ".join(filter(None, [", ".join(dtypes[:-1]), dtypes[-1]]))
        raise ValueError(f"{argument}: expected {expected}, got {name}")


def _element_strides(array: NumpyArray) -> tuple[int, ...]:
    return tuple(stride // array.itemsize for stride in array.strides)


def _check_overlap(shape: tuple[int, ...], strides: tuple[int, ...], argument: str) -> None:
    """Sufficient for the layouts we write to: each stride must step over everything inside it."""
    if 0 in shape:
        return
    extent = 1
    for stride, length in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < extent:
            raise ValueError(
                f"{argument}: expected memory of its own for every element, got overlapping strides {strides}"
            )
        extent = stride * (length - 1) + extent
