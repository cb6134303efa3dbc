"""A GPU that is only pretended: tensors stay in the memory of the CPU, but say that they are on "cuda:0".

What torch would refuse on a real device is refused here: tensors of both devices in one call, a CUDA tensor
as a numpy array, a generator of the CPU for numbers on the GPU. So the verbs can be run as on a GPU where
there is none, and a tensor that was made on the wrong device is found. Arithmetic is that of the CPU: what a
verb gives here is what it gives there, bit for bit.

Not seen: what torch does inside of one call, kernels, and time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)

READS = {Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
# What takes tensors of several devices.
MIXED = {
    Tensor.copy_,
    Tensor.data.__set__,  # type: ignore[attr-defined]
    Tensor.grad.__set__,  # type: ignore[attr-defined]
    Tensor.backward,
    torch.autograd.grad,
    torch._has_compatible_shallow_copy_type,
}
# Where even a number on the CPU is one too many.
STRICT = {torch.cat, torch.stack, Tensor.index_select, torch.index_select, Tensor.index_copy_}


class PretendedGpu(TorchFunctionMode):
    """While active, `.to("cuda")` and `device="cuda"` work, on tensors that pretend.

    kernels: what does the work of an operator for tensors on the GPU, by the operator.
    """

    def __init__(self, kernels: Mapping[Any, Callable[..., Any]] | None = None) -> None:
        super().__init__()
        self._kernels = dict(kernels or {})
        # The weak reference keeps the address from being given to another storage.
        self._known: dict[int, tuple[torch.device, StorageWeakRef]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in FACTS and isinstance(args[0], Tensor):
            return FACTS[func](self.device(args[0]))
        if func in READS and self.device(args[0]) == GPU:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if func in MOVES:
            return self._moved(func, args, kwargs)
        if kwargs.get("device") is not None and as_device(kwargs["device"]) not in (CPU, GPU):
            return func(*args, **kwargs)
        wanted = kwargs.pop("device", None)
        here = self._common(func, args, kwargs)
        target = here if wanted is None else as_device(wanted)
        if target == torch.device("meta"):
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None and target == GPU:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if target == GPU:
            func = self._kernels.get(func, func)
        found = func(*args, **kwargs) if wanted is None else func(*args, **kwargs, device=CPU)
        if wanted is not None and target != here and tensors_in((args, kwargs)):
            self._tag(found, target)  # zeros_like(x, device=...), x.new_zeros(..., device=...)
        self._tag(found, target, again=False)
        return found

    def device(self, tensor: Tensor) -> torch.device:
        """Where a tensor says that it is."""
        found = self._of(tensor)
        return CPU if found is None else found

    def _of(self, tensor: Tensor) -> torch.device | None:
        """None where nobody knows: made inside of torch, as gradients are."""
        with torch._C.DisableTorchFunction():
            if tensor.is_meta:
                return torch.device("meta")
            try:
                known = self._known.get(tensor.untyped_storage()._cdata)
            except (RuntimeError, NotImplementedError):  # it has none
                return None
        return None if known is None else known[0]

    def _tag(self, found: Any, device: torch.device | None, again: bool = True) -> None:
        if device is None:
            return
        for tensor in tensors_in(found):
            with torch._C.DisableTorchFunction():
                try:
                    storage = tensor.untyped_storage()
                except (RuntimeError, NotImplementedError):
                    continue
                if again or storage._cdata not in self._known:
                    self._known[storage._cdata] = device, StorageWeakRef(storage)

    def _common(self, func: Any, args: Any, kwargs: Any) -> torch.device | None:
        """The device of all tensors of a call."""
        given = tensors_in((args, kwargs))
        if not given:
            return CPU
        first = self._of(given[0])
        devices = [self._of(tensor) for tensor in given]
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            self._check_index(func, args)
            return first
        if func in MIXED:
            return first
        if GPU not in devices:
            return CPU if all(device == CPU for device in devices) else None
        for tensor, device in zip(given, devices, strict=True):
            if device == CPU and (tensor.dim() > 0 or func in STRICT):
                name = getattr(func, "__name__", func)
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu! "
                    f"({name} of {[tuple(t.shape) for t in given]} on {[str(d) for d in devices]})"
                )
        return GPU

    def _check_index(self, func: Any, args: Any) -> None:
        base, places = self._of(args[0]), args[1] if isinstance(args[1], tuple) else (args[1],)
        indices = [place for place in places if isinstance(place, Tensor)]
        if base == CPU and any(self._of(index) == GPU for index in indices):
            raise RuntimeError("indices should be either on cpu or on the same device as the tensor (cpu)")
        if func is Tensor.__setitem__ and (indices or any(isinstance(place, list) for place in places)):
            value = args[2]
            if isinstance(value, Tensor) and value.dim() > 0 and {base, self._of(value)} == {CPU, GPU}:
                raise RuntimeError("Expected all tensors to be on the same device (index_put_)")

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, rest = args[0], list(args[1:])
        here = self._of(tensor)
        target: torch.device | None = None
        dtype = kwargs.pop("dtype", None)
        if func is Tensor.cpu or func is Tensor.cuda:
            target = CPU if func is Tensor.cpu else GPU
        elif (wanted := kwargs.pop("device", None)) is not None:
            target = as_device(wanted)
        for value in [kwargs.pop("other", None), *rest]:
            if isinstance(value, Tensor):
                target, dtype = self.device(value), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, (str, torch.device, int)) and not isinstance(value, bool):
                target = as_device(value)
        if target == torch.device("meta"):
            return func(*args, **kwargs)
        copy = kwargs.get("copy", False) or (target is not None and target != (here or CPU))
        how = {"memory_format": kwargs["memory_format"]} if "memory_format" in kwargs else {}
        found = tensor.to(tensor.dtype if dtype is None else dtype, copy=copy, **how)
        self._tag(found, target or here, again=target is not None)
        return found


FACTS: dict[Any, Callable[[torch.device], Any]] = {
    Tensor.device.__get__: lambda device: device,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: lambda device: device == GPU,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda device: device == CPU,  # type: ignore[attr-defined]
    Tensor.get_device: lambda device: 0 if device == GPU else -1,
}


def as_device(wanted: Any) -> torch.device:
    """With its number: "cuda" is "cuda:0"."""
    if isinstance(wanted, int):
        return torch.device("cuda", wanted)
    device = torch.device(wanted)
    return GPU if device.type == "cuda" and device.index is None else device


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    leaves: Iterable[Any] = tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
